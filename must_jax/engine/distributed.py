"""Processes that train one model together: how they find each other, wait for each other and agree.

Every host of a pod runs the same command. Only process 0 writes the files of a workdir; all processes write
checkpoints. A single process needs none of this, and nothing here costs it anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed as _runtime  # the only way to its key-value store
from jax._src import xla_bridge
from jax.experimental import multihost_utils

from must_jax import preemption, progress
from must_jax.errors import OtherProcessFailed, Preempted, UserError

SHUTDOWN_WITHIN_S = 120  # after the first process ends, so that the others can finish a compilation
DEAD_AFTER_S = 30  # without a heartbeat, which has its own thread: a killed process ends the others
LOOK_EVERY_S = 0.2  # for reports of the others
AGAIN_AFTER_S = 5.0  # if the end of another process went unnoticed, as in somebody's `except Exception`
READY_WITHIN_S = 600.0  # after the first process is ready to begin
_ADDRESS, _COUNT, _ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_Value = TypeVar("_Value")
_HOSTS = "must_jax/host/"  # beneath it, the host of each process
_rounds = 0  # calls of `_round`; the same in every process
_together = ""  # where those inside `together` report how it ended for them


def join(within_s: float = READY_WITHIN_S) -> int:
    """Joins the other processes of this run, if there are any; call it before jax is used. Returns how many there are.

    Cloud TPU, GKE, SLURM and Open MPI are detected by jax. Elsewhere three environment variables say who is who:
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      within_s: how long to wait for the others; after that, this process ends with an error message and exit code 1.

    Raises:
      UserError: only some of the variables are set, they contradict each other, or the processes do not connect.
    """
    if not jax.distributed.is_initialized() and not xla_bridge.backends_are_initialized():
        stated = {name: os.environ.get(name, "") for name in (_ADDRESS, _COUNT, _ID)}
        if any(stated.values()) and not all(stated.values()):
            missing = next(name for name, value in stated.items() if not value)
            raise UserError(f"{missing} is not set; set all of {', '.join(stated)}, or none of them")
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `preemption`
        who = f"process {stated[_ID]} of {stated[_COUNT]}" if stated[_ADDRESS] else "this process"
        alone = f"{who} on {socket.gethostname()} has waited {within_s:.0f} s for the others; start all of them"
        overdue = threading.Timer(within_s, _give_up, [alone])  # jax itself would abort
        overdue.daemon = True
        overdue.start()
        try:
            address, count, number = (value or None for value in stated.values())
            jax.distributed.initialize(
                address,
                int(count) if count else None,
                int(number) if number else None,
                initialization_timeout=int(within_s) + 60,
                heartbeat_timeout_seconds=DEAD_AFTER_S,
                shutdown_timeout_seconds=SHUTDOWN_WITHIN_S,
            )
        except ValueError as error:
            if stated[_ADDRESS]:
                raise UserError(f"{', '.join(stated)} contradict each other: {error}") from None
            return 1  # not a cluster that jax knows
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the processes of this run do not find each other ({reason}); start all of them") from None
        finally:
            overdue.cancel()
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        until = time.monotonic() + within_s
        _client().key_value_set(f"{_HOSTS}{position()}", socket.gethostname())
        for process in range(processes()):  # before looking for devices, which takes all processes
            _get(f"{_HOSTS}{process}", process, within_s, until)
        if not is_first():
            progress.mute()
    return _runtime.global_state.num_processes


def is_first() -> bool:
    """Whether this process is the one that writes files and messages."""
    return _runtime.global_state.process_id == 0


def processes() -> int:
    """How many processes work together; does not touch the devices."""
    return _runtime.global_state.num_processes


def neighbours() -> int:
    """How many of the processes are on this host, itself included."""
    if processes() == 1:
        return 1
    hosts = [host for _, host in _client().key_value_dir_get(_HOSTS)]
    return max(1, hosts.count(socket.gethostname()))


def position() -> int:
    """The number of this process, from 0."""
    return _runtime.global_state.process_id


def wait(what: str) -> None:
    """Returns when all processes have called it; those that wait still receive signals."""
    if processes() > 1:
        here = _round(what)
        _client().key_value_set(f"{here}/{position()}", "")
        while len(_client().key_value_dir_get(here)) < processes():
            time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def linked() -> Iterator[None]:
    """Inside, each process does its own part of the work; if one fails or is told to stop, all of them end.

    Raises:
      UserError: another process ended with a user error; the message names it and its host.
      OtherProcessFailed: another process ended with any other error.
      Preempted: another process was told to stop.
    """
    if processes() == 1:
        yield
        return
    ends, over = _round("ends"), threading.Event()
    told: list[BaseException] = []

    def look() -> None:
        with contextlib.suppress(RuntimeError):  # the first process is gone, which jax notices as well
            while not over.wait(LOOK_EVERY_S):
                for key, report in _client().key_value_dir_get(ends):
                    told.append(_error(int(key.rpartition("/")[2]), json.loads(report)))
                    preemption.end_with(told[-1])
                    over.wait(AGAIN_AFTER_S)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    except BaseException as error:
        over.set()
        if error not in told:
            _client().key_value_set(f"{ends}/{position()}", json.dumps(_report(error)))
        raise
    finally:
        over.set()
        looking.join()


def gather(value: _Value) -> list[_Value]:
    """The values of all processes, in their order; anything that can be pickled."""
    if processes() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agreed(what: str, value: _Value) -> _Value:
    """The value, which must be the same in every process.

    Raises:
      UserError: it is not; raised in all processes.
    """
    values = gather(value)
    if any(other != value for other in values):
        raise UserError(f"{what} is {', '.join(map(str, values))} as the processes see it; give them one shared disk")
    return value


def any_says(flag: bool) -> bool:
    """Whether `flag` is true in any process; all get the same answer."""
    return flag if processes() == 1 else bool(multihost_utils.process_allgather(np.bool_(flag)).any())


@contextlib.contextmanager
def together(facts: Mapping[str, str], within_s: float = READY_WITHIN_S) -> Iterator[None]:
    """Inside, every process prepares by itself; afterwards all of them begin, or none does. They may `join` inside.

    If a process is not ready in time, this one names it and ends with exit code 1.

    Args:
      facts: what must be equal everywhere, by name; may still be filled inside the block.
      within_s: how long the first process that is ready waits for the last one.

    Raises:
      UserError: a process cannot begin, or differs from process 0; the message names it and its host.
      OtherProcessFailed: a process broke down.
      Preempted: a process was told to stop.
    """
    global _together
    here, end = _round("ready"), None
    _together = here
    try:
        yield
    except BaseException as error:
        end = error
        raise
    finally:
        if processes() > 1:
            _client().key_value_set(f"{here}/{position()}", json.dumps(_report(end) | {"facts": dict(facts)}))
    if processes() > 1:
        until = time.monotonic() + within_s
        said = [_get(f"{here}/{process}", process, within_s, until) for process in range(processes())]
        _compare([json.loads(report) for report in said])


def are_alike(value: str, within_s: float = READY_WITHIN_S) -> bool:
    """Whether all processes have the same value; to be called by each of them inside the same `together`.

    If one of them is late, others may be told that it is not. If one has ended, so will all, and the answer is yes.
    """
    if processes() == 1:
        return True
    here, until = _round("alike"), time.monotonic() + within_s
    _client().key_value_set(f"{here}/{position()}", value)
    while time.monotonic() < until:
        values = [each for _, each in _client().key_value_dir_get(here)]
        if len(values) == processes():
            return len(set(values)) == 1
        if _client().key_value_dir_get(_together):
            return True
        time.sleep(LOOK_EVERY_S)
    return False


def _round(what: str) -> str:
    """A new key under which the processes exchange messages once."""
    global _rounds
    _rounds += 1
    return f"must_jax/{what}-{_rounds}"


def _report(end: BaseException | None) -> dict[str, Any]:
    """How this process has ended, to be read by the others."""
    preempted = isinstance(end, Preempted)
    mistake = isinstance(end, UserError)
    failure = str(end) if mistake else f"{type(end).__name__}: {end}"
    return {
        "host": socket.gethostname(),
        "preempted": preempted,
        "failure": "" if end is None or preempted else failure,
        "mistake": mistake,
    }


def _error(process: int, report: dict[str, Any]) -> BaseException:
    """The error that the end of another process causes in this one."""
    if report["preempted"]:
        return Preempted(f"as process {process} on {report['host']} was stopped by SIGTERM")
    kind = UserError if report["mistake"] else OtherProcessFailed
    return kind(f"process {process} on {report['host']}: {report['failure']}")


def _get(key: str, process: int, within_s: float, until: float) -> str:
    """The value that `process` sets under `key`. If it does not do so in time, this process ends."""
    try:
        return _client().blocking_key_value_get(key, int(1000 * max(1.0, until - time.monotonic())))
    except RuntimeError:  # the deadline
        hosts = dict(_client().key_value_dir_get(_HOSTS))
        host = hosts.get(f"{_HOSTS}{process}", "an unknown host")
        _give_up(
            f"process {process} of {processes()} on {host} was not ready {within_s:.0f} s after process {position()}; "
            "look at its log and its host, then start all again"
        )


def _give_up(sentence: str) -> NoReturn:
    """Ends this process even if others hang: an orderly exit would wait for them, and then abort."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)  # restarting all of them may help


def _compare(reports: list[dict[str, Any]]) -> None:
    for process, report in enumerate(reports):
        if report["preempted"] or report["failure"]:
            raise _error(process, report)
    for process, report in enumerate(reports[1:], start=1):
        for name, value in reports[0]["facts"].items():
            if report["facts"].get(name) != value:
                raise UserError(
                    f"process {process} on {report['host']} has {name} {report['facts'].get(name)}, but process 0 on "
                    f"{reports[0]['host']} has {value}; bring all hosts to the same state"
                )


def _client() -> Any:
    return _runtime.global_state.client
