"""The dataset as a TFDS builder, and its preparation on first use."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import IO, Any

import tensorflow_datasets as tfds

from must_jax import preemption
from must_jax.cores import cores
from must_jax.data.datasets import open_dataset, reading
from must_jax.data.scenes.configs import CONFIGS, encode_examples
from must_jax.errors import UserError, nearest
from must_jax.progress import Progress, say

VERSION = "1.0.0"  # names the folder: raise it whenever what is rendered changes, or old images are read as new
_CHUNK = 32  # images a worker renders at a time
_POOL_FROM = 200  # images; below that, starting processes costs more than it saves
_KILLED_WITHIN_S = 5.0  # unless its disk does not answer
_MAX_WORKERS = 8  # so many render faster than one process writes


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Rendered rooms with exact ground truth; one config per purpose (see `configs.py`); examples in index order."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in CONFIGS]  # noqa: RUF012 (TFDS wants a list)
    code_path = None  # nothing is downloaded; TFDS would need another package to look for checksums beside the code

    def __init__(self, *, images: Mapping[str, int] | None = None, ahead: bool = False, **options: Any) -> None:
        """A builder.

        Args:
          images: split -> number, in place of the config's own.
          ahead: whether this process alone renders all of it, without a word.
          options: those of TFDS builders.
        """
        super().__init__(**options)
        self.images = dict(images or CONFIGS[self.builder_config.name].images)
        self._ahead = ahead
        self._progress: Progress | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        config = CONFIGS[self.builder_config.name]
        size = config.image_size
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
            "name": tfds.features.Text(),
        }
        tasks = {}
        for task, truth in config.truths.items():
            features[task] = truth.kind.features()
            tasks[task] = {"kind": truth.kind.to_dict(), "classes": list(truth.classes)}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(tasks=tasks),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split, count) for split, count in self.images.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        chunks = _rendered_chunks(self.builder_config.name, split, count, alone=self._ahead or count < _POOL_FROM)
        examples = (example for chunk in chunks for example in chunk)
        for index, example in enumerate(examples):
            yield index, example
            if self._progress is not None:
                self._progress.advance()

    def _log_download_bytes(self) -> None:
        """Replaces a message about downloading."""

    _log_download_done = _log_download_bytes

    def render(self) -> None:
        """Writes the dataset with a progress bar; TFDS renames its temporary folder when everything is written."""
        title = f"rendering {self.name}/{self.builder_config.name}"
        with (
            tempfile.TemporaryDirectory() as unused,  # else TFDS leaves an empty folder for downloads in data_dir
            contextlib.nullcontext() if self._ahead else Progress(title, sum(self.images.values())) as self._progress,
        ):
            self.download_and_prepare(download_dir=unused, file_format="array_record")


def prepare(name: str, data_dir: str | Path, images: Mapping[str, int] | None = None, *, ahead: bool = False) -> Path:
    """Renders a config of the dataset unless that is already done; concurrent callers wait for the first.

    Args:
      name: a key of `CONFIGS`.
      data_dir: where TFDS datasets live; the result is in `data_dir/scenes/<name>/<version>`.
      images: split -> number, in place of the config's own.
      ahead: see `rendering_ahead`.

    Returns:
      The dataset's folder, for `tfds.builder_from_directory`.

    Raises:
      UserError: the config is unknown, or the dataset exists with other numbers of images.
    """
    if name not in CONFIGS:
        raise UserError(f"'scenes/{name}' is not a config of scenes; {nearest(name, CONFIGS)}")
    images = dict(images or CONFIGS[name].images)
    folder = _folder(name, data_dir)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / ".lock").open("w") as lock:
            _lock(lock, name, ahead)
            if not folder.is_dir():
                for leftover in folder.parent.glob(f"{tfds.core.constants.INCOMPLETE_PREFIX}*"):
                    shutil.rmtree(leftover)  # left by a preparation that was killed
                tfds.disable_progress_bar()
                Scenes(config=name, data_dir=folder.parents[2], images=images, ahead=ahead).render()
    if (found := _split_sizes(folder)) != images:
        raise UserError(f"{folder} holds {found} images, not {images}; remove it or choose another data_dir")
    return folder


def _lock(file: IO[str], name: str, ahead: bool) -> None:
    """Waits for the lock, which is released by the system when its holder dies; raises BlockingIOError if `ahead`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if ahead:
            raise
        _stop_rendering_ahead()  # it has one core at most, and this process all that it now waits with
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that renders scenes/{name}")
            fcntl.flock(file, fcntl.LOCK_EX)


_ahead: list[multiprocessing.process.BaseProcess] = []  # the process that renders ahead for this one


@contextlib.contextmanager
def rendering_ahead(names: Iterable[str], data_dir: str | Path) -> Iterator[None]:
    """Meanwhile, a process of the lowest priority renders these configs, one after the other.

    It ends on leaving, with this process, or when `prepare` needs what it has not finished; what it has begun is thrown
    away by the next `prepare`. What goes wrong there is silent, and will be met again by who needs the images.
    """
    missing = [
        name
        for name in dict.fromkeys(names)
        if sum(CONFIGS[name].images.values()) >= _POOL_FROM and not _folder(name, data_dir).is_dir()
    ]
    if not missing:
        yield
        return
    with tempfile.TemporaryDirectory() as scratch:
        process = _context().Process(target=_render_ahead, args=(missing, str(data_dir), scratch), daemon=True)
        _ahead.append(process)
        try:
            with _signals_left_to_parent():
                process.start()
            yield
        finally:
            _stop_rendering_ahead()


def _stop_rendering_ahead() -> None:
    while _ahead:
        process = _ahead.pop()
        if process.pid is not None:
            process.kill()
            process.join(_KILLED_WITHIN_S)


def _render_ahead(names: Iterable[str], data_dir: str, scratch: str) -> None:
    _start_worker()
    os.nice(19)
    tempfile.tempdir = scratch  # for who remains to remove
    for name in names:
        with contextlib.suppress(Exception):
            prepare(name, data_dir, ahead=True)


def _folder(name: str, data_dir: str | Path) -> Path:
    return Path(data_dir).expanduser() / "scenes" / name / VERSION


def _split_sizes(folder: Path) -> dict[str, int]:
    advice = f"remove {folder}, which is then rendered again"
    with reading(folder, advice):
        return {name: split.num_examples for name, split in open_dataset(folder, advice).info.splits.items()}


def _rendered_chunks(name: str, split: str, count: int, *, alone: bool) -> Iterator[list[dict[str, Any]]]:
    encode = functools.partial(encode_examples, name, split)
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    if alone:
        yield from map(encode, chunks)
        return
    with ProcessPoolExecutor(min(cores(), _MAX_WORKERS), _context(), _start_worker) as pool:
        try:
            with _signals_left_to_parent():
                rendered = pool.map(encode, chunks)
            yield from rendered
        finally:
            pool.shutdown(cancel_futures=True)  # a worker that still starts needs what this process has made for it


def _context() -> multiprocessing.context.ForkServerContext:
    """Processes forked from one that has loaded this module, not from this one, in which JAX runs threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # this unblocks signals when it starts
    return context


@contextlib.contextmanager
def _signals_left_to_parent() -> Iterator[None]:
    """For starting processes, which inherit the mask: signals to the whole process group are for the parent to handle.

    It does so afterwards: a process that was not started wholly could neither be used nor be waited for.
    """
    with preemption.deferred():  # signals that another thread has received are not masked
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker() -> None:
    def die_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
