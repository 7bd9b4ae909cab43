"""Checkpoints of a run. The only file that uses Orbax.

One step on disk holds {"state": arrays, "data": what was read, "meta": time spent} and the checksums of its files
(`sums`). It appears under its final name only when it is complete, so a run that was killed while saving continues from
the step before.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import AsyncOptions, MultiprocessingOptions

from must_jax import files
from must_jax.description import REMEDY
from must_jax.engine import distributed, sums
from must_jax.engine.state import State, Variables
from must_jax.errors import UserError

KEPT = 2
_REASON = 200  # characters of a library's error message
for _name in ("absl", "asyncio"):  # Orbax's threads log, with tracebacks, what `save` and `close` then raise
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Checkpoints:
    """The checkpoints in `folder`. The last two and chosen ones are kept; partial ones of killed processes are removed.

    Saving runs in the background; leaving the context waits for it.

    Args:
      folder: created if missing.
      data: fingerprint of the data, name -> value. A checkpoint made with other data is refused.
      chosen: steps of checkpoints that are kept in any case.
      read_only: nothing is saved, removed or created, and no other process takes part.
    """

    def __init__(
        self, folder: Path, data: Mapping[str, Any], *, chosen: Collection[int] = (), read_only: bool = False
    ) -> None:
        self._folder, self._data = folder, dict(data)
        self._read_only, self._saving = read_only, 0
        self._chosen = _Chosen(frozenset(chosen))
        with _readable(folder):
            self._manager = _reader(folder) if read_only else _writer(folder, self._sum_up, self._chosen)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()  # waits for the save that is under way

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: State, meta: Mapping[str, Any], *, keep: int | None = None) -> None:
        """Saves; `keep`: the step of a checkpoint that `meta` refers to, which is kept as long as this one."""
        items = {
            "state": ocp.args.StandardSave(state),
            "data": ocp.args.JsonSave(self._data),
            "meta": ocp.args.JsonSave(dict(meta)),
        }
        self._manager.wait_until_finished()  # `save` would do so anyway
        self._chosen.latest.append(keep)
        self._saving = step
        self._manager.save(step, args=ocp.args.Composite(**items))

    def _sum_up(self) -> None:
        """Called when the checkpoint that is being saved is fully written, before it gets its final name."""
        if distributed.is_first():
            for unnamed in self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                sums.write(unnamed, self._saving)

    def restore(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        """The state, laid out over the devices like `like`, and its meta.

        Raises:
          UserError: it was made with other data or of another model (the message says what differs), or is unreadable.
        """
        if self._read_only:  # otherwise `check_same` has done so
            _check_files(self._folder, step)
        with _readable(self._folder, step=step):
            _check_same(self._manager, step, self._folder, self._data, like)
            meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            target = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
            state = self._manager.restore(step, args=ocp.args.Composite(state=target))["state"]
        return state, meta


class _Chosen:
    """Orbax's protocol for what is not to be removed: `always`, and what the last saves referred to."""

    def __init__(self, always: frozenset[int]) -> None:
        self._always = always
        self.latest: deque[int | None] = deque(maxlen=KEPT)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [each.step in self._always or each.step in self.latest for each in checkpoints]


def check_same(folder: Path, data: Mapping[str, Any], like: State) -> None:
    """Raises what `restore` of the newest checkpoint would, if there is one, and UserError if its files have changed.

    To check the files, the first of several processes reads all of them. Writes nothing.
    """
    with _readable(folder):
        if folder.is_dir():
            with _reader(folder) as manager:
                if (step := manager.latest_step()) is not None:
                    if distributed.is_first():
                        _check_files(folder, step)
                    _check_same(manager, step, folder, data, like)


def restore_variables(folder: Path, step: int | None = None) -> Variables:
    """The trained variables as NumPy arrays: the moving average if there is one.

    Args:
      step: of the checkpoint; None = the newest.

    Raises:
      UserError: there is no such checkpoint in `folder`, or it cannot be read.
    """
    if not folder.exists():
        raise UserError(f"there is no {folder}; restore it, or train the run again")
    with (
        _readable(folder, finished=True),
        _reader(folder, ocp.PyTreeCheckpointHandler) as manager,  # which can skip the optimizer's state
    ):
        if (newest := manager.latest_step()) is None:
            raise UserError(f"{folder} holds no complete checkpoint; train the run again")
        step = newest if step is None else step
        if step not in manager.all_steps():
            raise UserError(f"{folder / str(step)}, which holds the model, is missing; restore it, or {REMEDY}")
        _check_files(folder, step, finished=True)
        saved = manager.item_metadata(step)["state"].tree
        wanted = {"ema": saved["ema"]} if saved["ema"] else {name: saved[name] for name in ("params", "stats")}
        arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=arrays, partial_restore=True)
        state = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
    return state.get("ema", state)


def check_space(folder: Path, state: State, chosen: int = 0) -> None:
    """Raises UserError if the disk cannot hold the kept checkpoints and the one that is being written.

    Args:
      folder: of the checkpoints; what is already in it is not counted again.
      state: arrays, or only their shapes and types.
      chosen: how many others are kept.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    files.check_space(
        folder, (KEPT + 1 + chosen) * size - files.bytes_in(folder), f"the checkpoints of {folder.parent}"
    )


def _check_same(manager: ocp.CheckpointManager, step: int, folder: Path, data: Mapping[str, Any], like: State) -> None:
    saved_data = manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]
    for name in sorted(saved_data.keys() | data.keys()):
        was, now = saved_data.get(name), data.get(name)
        if was != now:
            raise UserError(
                f"{folder} was made with {name} = {was}, which is {now} now; "
                "bring the data back, or start in another workdir"
            )
    if differing := different(manager.item_metadata(step)["state"].tree, like):
        raise UserError(f"{folder} holds another model or optimizer, start in another workdir; different: {differing}")


def different(saved: Any, wanted: Any) -> str:
    """The names of arrays that are missing from one tree, or have another shape in it."""
    names = sorted(name for name, _ in _shapes(saved).items() ^ _shapes(wanted).items())
    return ", ".join(dict.fromkeys(names))


def _writer(folder: Path, all_is_written: Callable[[], None], chosen: _Chosen) -> ocp.CheckpointManager:
    """A manager in which all processes take part. `all_is_written`: called before a checkpoint gets its final name."""
    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(KEPT), chosen]),
        cleanup_tmp_directories=True,
        async_options=AsyncOptions(post_finalization_callback=all_is_written),
    )
    handlers = _handlers(ocp.StandardCheckpointHandler())
    return ocp.CheckpointManager(folder.resolve(), options=options, item_handlers=handlers)


def _reader(
    folder: Path, handler: Callable[..., ocp.CheckpointHandler] = ocp.StandardCheckpointHandler
) -> ocp.CheckpointManager:
    """A manager that changes nothing, and waits for no other process."""
    own = jax.process_index()
    alone = MultiprocessingOptions(primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process {own}")
    options = ocp.CheckpointManagerOptions(read_only=True, create=False, multiprocessing_options=alone)
    handlers = _handlers(handler(multiprocessing_options=alone))
    return ocp.CheckpointManager(folder.resolve(), options=options, item_handlers=handlers)


def _handlers(state: ocp.CheckpointHandler) -> dict[str, ocp.CheckpointHandler]:
    return {"state": state, "data": ocp.JsonCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}


def _check_files(folder: Path, step: int, finished: bool = False) -> None:
    """Raises UserError if the files are not as they were written."""
    if changed := sums.changed(folder / str(step), step):
        raise UserError(f"{changed}; {_advice(folder, step, finished)}")


@contextlib.contextmanager
def _readable(folder: Path, *, step: int | None = None, finished: bool = False) -> Iterator[None]:
    """Inside, errors of libraries that cannot read a checkpoint become a UserError. `step`: the newest if None."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder; move it away")
    for there in sorted(_steps(folder), reverse=True):  # opening the folder looks at all of them
        if other := sums.no_file(folder / str(there)):
            raise UserError(f"{other}; {_advice(folder, there, finished)}")
    try:
        yield
    except (UserError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        step = max(_steps(folder), default=None) if step is None else step
        if step is None:
            raise
        why = " ".join(str(error).split())[:_REASON] or type(error).__name__
        advice = _advice(folder, step, finished)
        raise UserError(f"{folder / str(step)} cannot be read as a checkpoint ({why}); {advice}") from None


def _advice(folder: Path, step: int, finished: bool = False) -> str:
    """What to do if a checkpoint is damaged. `finished`: training is finished, and the model to be loaded."""
    whole = [other for other in _steps(folder) if other != step and not sums.changed(folder / str(other), other)]
    if any(other > step for other in whole):
        return f"the newer checkpoint of step {max(whole)} is whole: remove {folder / str(step)}"
    if not whole:
        return f"restore it from a copy, or remove {folder.parent} and train again"
    remove = f"{folder / str(step)}{f' and {folder.parent / files.MODEL_FILE}' if finished else ''}"
    start = "start that training again, which" if finished else "the same command then"
    return f"the checkpoint of step {max(whole)} is whole: remove {remove}, and {start} goes on from there"


def _steps(folder: Path) -> list[int]:
    """The steps of the complete checkpoints, from the names of their folders."""
    return [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
