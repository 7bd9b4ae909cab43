"""Processes that work on batches: `Workers` in the process that they belong to, `main` in those that it starts.

One process is started anew, so that it has none of the threads of jax. It loads modules and sources once and then forks
into the workers, which share that memory. Each thread of a worker has a socket, through which it is told which rows of
which batch to write into a piece of shared memory, or to read from it, and answers with a list.

grain's processes would each load modules and sources, take new memory for every batch, and need much /dev/shm.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import mmap
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, cast

import cloudpickle

from must_jax.data.layout import Layout
from must_jax.errors import UserError, WorkerLost

_START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from must_jax.data import workers; workers.main()"
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # sent to all processes of a job; this one tells its workers when to end
_END_WITHIN_S = 20.0
_REAPED_WITHIN_S = 1.0
_REQUEST = struct.Struct("=qqq")  # a batch, and its rows from and to; with it comes the file of the batch's memory
_FILES = 10_240  # that may be open: a socket for each thread, and one or two for each batch; macOS allows no more

Make = Callable[[int, range, dict[Any, Any]], list[Any]]


class Unread(NamedTuple):
    """Something that could not be read, and why."""

    what: str
    why: str


class _Failure(NamedTuple):
    """Why a worker could not make its part: a traceback, or a sentence for the user."""

    text: str
    is_mistake: bool


class _Lane(NamedTuple):
    """The way to one thread of a worker, and the stream of its answers."""

    end: socket.socket
    answers: IO[bytes]

    @classmethod
    def over(cls, ours: socket.socket) -> _Lane:
        return cls(ours, ours.makefile("rb"))

    def ask(self, step: int, rows: range, memory: int) -> None:
        socket.send_fds(self.end, [_REQUEST.pack(step, rows.start, rows.stop)], [memory])

    def answer(self) -> list[Any] | _Failure:
        return cast(list[Any] | _Failure, pickle.load(self.answers))

    def close(self) -> None:
        self.answers.close()
        self.end.close()


class Workers:
    """A context in which worker processes work on batches; within it, call it to begin one.

    Args:
      make: writes or reads rows of a batch, see `prefetch.Maker`.
      threads: of all workers together, at least one each.
      keys: of the config, to lower if workers are killed for lack of memory.
    """

    def __init__(self, make: Make, layout: Layout, count: int, threads: int, keys: str) -> None:
        self._layout, self._next, self._keys = layout, 0, keys
        self._maps: dict[int, mmap.mmap] = {}  # by file, the memory of batches: to map it anew costs up to 2 us a page
        self._begun: set[int] = set()  # files of batches
        self._free: list[int] | None = []  # that of batches which nobody holds; fresh pages are slow
        _allow_files()
        lanes = [threads * (worker + 1) // count - threads * worker // count for worker in range(count)]
        pairs = [[socket.socketpair() for _ in range(lane_count)] for lane_count in lanes]
        self._lanes = [_Lane.over(ours) for worker in pairs for ours, _ in worker]
        theirs = [there for worker in pairs for _, there in worker]
        numbers = [[there.fileno() for _, there in worker] for worker in pairs]
        with _blocked():  # for good, in the new process: it does not end before its work is done
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                pass_fds=[there.fileno() for there in theirs],
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        for there in theirs:
            there.close()
        self._stdin = cast(IO[bytes], self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # the lanes will tell
            pickle.dump(sys.path, self._stdin)
            pickle.dump(numbers, self._stdin)
            cloudpickle.dump((make, layout), self._stdin)
            self._stdin.flush()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            with contextlib.suppress(OSError):
                lane.end.shutdown(socket.SHUT_RDWR)  # whoever waits for an answer is let go
            lane.close()
        free, self._free = self._free or [], None
        for memory in (*self._begun, *free):
            os.close(memory)
        self._maps.clear()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:  # a worker hangs in a file system, where nothing can kill it
            self._process.kill()
            self._process.wait()

    def __call__(
        self, step: int, parts: Sequence[range], given: Mapping[Any, Any] | None = None
    ) -> Callable[[], tuple[dict[Any, Any], list[Any]]]:
        """Begins a batch. Returns a function that waits for it, and returns it with what the workers answer.

        Args:
          given: is written into its memory first.

        Raises (so does the function):
          WorkerLost: a worker has ended.
        """
        memory, asked = self._free.pop() if self._free else _memory(self._layout.bytes), []
        self._begun.add(memory)
        if memory not in self._maps:
            self._maps[memory] = mmap.mmap(memory, self._layout.bytes)
        if given is not None:
            self._layout.fill(self._maps[memory], given)
        for rows in parts:
            lane = self._lanes[self._next]
            self._next = (self._next + 1) % len(self._lanes)
            with self._lost():
                lane.ask(step, rows, memory)
            asked.append(lane)

        def finished() -> tuple[dict[Any, Any], list[Any]]:
            answers: list[Any] = []
            for lane in asked:
                with self._lost():
                    answer = lane.answer()
                if isinstance(answer, _Failure):
                    raise UserError(answer.text) if answer.is_mistake else RuntimeError(f"in a worker: {answer.text}")
                answers += answer
            self._begun.remove(memory)
            held = (ctypes.c_byte * self._layout.bytes).from_buffer(self._maps[memory])  # by whoever holds an array
            weakref.finalize(held, self._take_back, memory).atexit = False
            return self._layout.views(held, copy_small=True), answers

        return finished

    def _take_back(self, memory: int) -> None:
        if self._free is None:
            os.close(memory)
        else:
            self._free.append(memory)

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        """Names the reason for a socket that is closed at its other end, or here by whoever ends the context."""
        try:
            yield
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # the last one: in the middle of an answer
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAPED_WITHIN_S)
            if (self._process.returncode or 0) > 0:
                raise WorkerLost("the worker processes could not be started; see the traceback above") from None
            raise WorkerLost(
                f"a worker process has ended, or was killed, as systems do if memory is short; then lower {self._keys}"
            ) from None


def main() -> None:
    """Forks into workers, and ends them as soon as their reader closes the input of this process, or dies."""
    numbers: list[list[int]] = pickle.load(sys.stdin.buffer)
    make, layout = cloudpickle.load(sys.stdin.buffer)
    gc.freeze()  # or the collector would write to the memory that is shared
    children = []
    for own in numbers:
        if child := os.fork():
            children.append(child)
            continue
        for number in (number for other in numbers if other is not own for number in other):
            os.close(number)
        work = functools.partial(_work, make=make, layout=layout, maps={})
        lanes = [threading.Thread(target=work, args=(socket.socket(fileno=number),)) for number in own]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        os._exit(0)
    for number in (number for own in numbers for number in own):
        os.close(number)  # so that a reader notices when a worker is gone
    sys.stdin.buffer.read()
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def _work(lane: socket.socket, make: Make, layout: Layout, maps: dict[int, mmap.mmap]) -> None:
    """Works until its reader is gone.

    Args:
      maps: by number of the file (inode), the memory of batches that this process has written to before. The reader
        lets none go and uses it again, and to map it anew would cost up to 2 us a page: a fifth of an image's time.
    """
    with lane, contextlib.suppress(OSError):
        while True:
            request, files, *_ = socket.recv_fds(lane, _REQUEST.size, 1, socket.MSG_WAITALL)
            if not files:  # its reader is gone
                return
            (memory,), (step, start, stop) = files, _REQUEST.unpack(request)
            answer: list[Any] | _Failure
            try:
                if (number := os.fstat(memory).st_ino) not in maps:
                    maps[number] = mmap.mmap(memory, layout.bytes)
                answer = make(step, range(start, stop), layout.views(maps[number]))
            except UserError as error:
                answer = _Failure(str(error), True)
            except BaseException:
                answer = _Failure(traceback.format_exc(), False)
            finally:
                os.close(memory)
            lane.sendall(pickle.dumps(answer))


def _memory(size: int) -> int:
    """A file in memory; not in /dev/shm, which containers make small."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("batch")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file


def _allow_files() -> None:
    """Raises the limit of open files, often 1024, as far as any user may: a few hundred cores need more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Inside, signals to end wait; a process that is started here never gets them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
