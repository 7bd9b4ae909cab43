"""Signals where Python cannot raise anything, and more of them than one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from must_jax import cli

# {end}: what ends the process, while something is being collected.
COLLECTING = """
import gc, signal, time
from must_jax import preemption
from must_jax.errors import Preempted, UserError

ended = []

def collecting(phase, info):
    if not ended:
        ended.append(True)
        {end}
        for _ in range(10):
            pass

preemption.watch()
gc.callbacks.append(collecting)
try:
    gc.collect()
    time.sleep(5)
    print("lost")
except (Preempted, UserError) as stop:
    print(stop)
"""

ENDING = """
import sys, time
from must_jax import cli, preemption

def work():
    preemption.watch()
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)  # as long as it takes to put everything in order
        print("in order", flush=True)

sys.exit(cli.exit_code(work))
"""


@pytest.mark.parametrize("code", [0, 75])
def test_signals_that_come_on_top_do_not_disturb_the_end(code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | ({cli.PREEMPTED_CODE: "75"} if code else {})
    process = subprocess.Popen(
        [sys.executable, "-c", ENDING], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    for _ in range(4):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    said, told = process.communicate()
    assert (process.returncode, said) == (code, "in order\n"), told
    assert told == "preempted, stopped by SIGTERM; the same command continues\n"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("signal.raise_signal(signal.SIGTERM)", "stopped by SIGTERM"),
        ("preemption.end_with(UserError('another process has failed'))", "another process has failed"),
    ],
)
def test_what_ends_a_process_is_not_lost_during_garbage_collection(end, said):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = COLLECTING.format(end=end)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")
