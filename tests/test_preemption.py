"""A signal that comes where Python cannot raise anything."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_a_signal_during_garbage_collection_is_not_lost():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped by SIGTERM\n", "")
