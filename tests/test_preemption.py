"""Signals where Python cannot raise anything, and more of them than one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from must_jax import cli

PROGRAM = """
import gc, signal, time
from must_jax import preemption
from must_jax.errors import Preempted

def collecting(phase, info):
    if not preemption.requested():
        signal.raise_signal(signal.SIGTERM)
        for _ in range(10):
            pass

preemption.watch()
gc.callbacks.append(collecting)
try:
    gc.collect()
    time.sleep(5)
    print("lost")
except Preempted as stop:
    print(stop)
"""

TELLING = """
import gc, time
from must_jax import preemption
from must_jax.errors import UserError

ended = []

def collecting(phase, info):
    if not ended:
        ended.append(True)
        preemption.end_with(UserError("another process has failed"))
        for _ in range(10):
            pass

preemption.watch()
gc.callbacks.append(collecting)
try:
    gc.collect()
    time.sleep(5)
    print("lost")
except UserError as error:
    print(error)
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


def test_a_signal_during_garbage_collection_is_not_lost():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped by SIGTERM\n", "")


def test_nor_is_what_another_process_has_failed_with():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", TELLING], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("another process has failed\n", "")
