"""Preparing: images as users have them become a TFDS dataset in ArrayRecord, with their bytes unchanged.

Which images a shard holds follows from the source alone (see `plan`), so a run that was killed and resumed ends up with
the same files as one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from must_jax import files
from must_jax.config import PrepareConfig
from must_jax.cores import ahead, cores
from must_jax.data import folders, plan, shards
from must_jax.data.decoding import Ranges, Values, check_image
from must_jax.data.image_sets import SOURCE, ImageSet, are_same, open_images
from must_jax.data.plan import Plan, ShardRecord, Skipped
from must_jax.data.raw import Item, RawImages, open_raw
from must_jax.errors import UserError
from must_jax.progress import Progress, say

VERSION = "1.0.0"
SKIPPED_FILE = "skipped.json"
MAX_BAD_SHARE = 0.5  # of the images; with more, the source is not what the user thinks it is
MAX_BYTES = 2**30  # of an image; a record cannot have twice that


class _Checked(NamedTuple):
    """A checked image, for a shard: its record, or why it has none."""

    shard: int
    name: str
    record: bytes = b""
    reason: str = ""
    values: Values = Values(0, 0)


def prepare(config: PrepareConfig) -> ImageSet:
    """Writes the image set `data_dir/NAME` unless it is finished, and opens it.

    If an earlier run was stopped, or shards have been lost since, only the missing shards are written.

    Raises:
      UserError: there is no such source, it has no images, more than half of them are unreadable, or there is too
        little disk space; or the folder holds other data, was prepared from something else or with other settings, or
        is being written by another process.
    """
    folder = Path(config.data_dir).expanduser() / config.name / VERSION
    images = f"{config.name}:{shards.SPLIT}"
    if _is_finished(folder, config):
        _remember_move(folder, config)
        say(f"{folder} is finished; nothing to do, read it as {images}")
    else:
        say(f"{folder}: {_make(folder, config)}; read it as {images}")
    return open_images(images, config.data_dir)


def check(config: PrepareConfig) -> None:
    """Raises the errors of `prepare` that can be found without opening a file of the source."""
    folder = Path(config.data_dir).expanduser() / config.name / VERSION
    if not _is_finished(folder, config):
        plan.check_same(folder, config, _open(config).digest)


def open_source(config: PrepareConfig) -> RawImages:
    """What a set is to be made from, listed.

    Raises:
      UserError: there is no such source, it has no images, or too many of a kind that is not read.
    """
    raw = _open(config)
    _check_images(raw, config.images)
    return raw


def _is_finished(folder: Path, config: PrepareConfig) -> bool:
    there = plan.read(folder)
    if there is None or not (folder / shards.INFO_FILE).exists() or there.missing(folder):
        return False
    try:
        source = _open(config).digest
    except UserError:
        if not are_same(there.images, config.images):
            raise
        source = there.source  # what a finished set was made from may be gone
    plan.check_same(folder, config, source)
    return True


def _remember_move(folder: Path, config: PrepareConfig) -> None:
    """Where the source of a finished set is now: from there, too, it may be gone later."""
    there = plan.read(folder)
    if there is not None and not are_same(there.images, config.images):
        with contextlib.suppress(OSError, UserError):  # a folder that cannot be written to
            there.model_copy(update={"images": config.images}).write(folder)


def _open(config: PrepareConfig) -> RawImages:
    return open_raw(config.images, Path(config.data_dir), config.image_column, config.image_suffix)


def _make(folder: Path, config: PrepareConfig) -> str:
    """Writes the image set. Returns how many images it has and how many it lacks, in words."""
    # What can be wrong is checked first, and slow checks come after quick ones.
    raw = _open(config)
    plan.check_same(folder, config, raw.digest)
    _check_images(raw, config.images)
    files.check_space(folder, raw.size_bytes - files.bytes_in(folder), f"the images of {config.images}")
    with files.taken(folder, "wait for it, or choose another config.name"):
        # Again, in case another process has worked in the folder since.
        plan.check_same(folder, config, raw.digest, len(raw), raw.named_by)
        there = plan.read(folder)
        if there is None:
            asked = config.model_dump(include={"name", "images", *plan.ASKED})
            there = Plan(**asked, source=raw.digest, length=len(raw), named_by=raw.named_by)
            there.write(folder)
        try:
            written = _write_missing(folder, there, raw)
        except UserError:
            if not plan.read(folder).shards:  # type: ignore[union-attr]  # the corrected one may be another source
                (folder / plan.FILE).unlink()
            raise
        return _finish(folder, written, raw)


def _write_missing(folder: Path, there: Plan, raw: RawImages) -> Plan:
    """Writes the shards that are not there yet. Returns the plan that lists them all."""
    missing = there.missing(folder)
    left = sum(map(len, itertools.chain(*map(there.positions, missing))))
    items = ((index, item) for index in missing for part in there.positions(index) for item in raw.items(part))
    check = functools.partial(_check, shards.serializer(_features()), there.max_pixels)
    lost = {there.shard_file(index) for index in missing}
    bad = [each for shard in there.shards if shard.file not in lost for each in shard.skipped]
    ranges = Ranges()
    with (
        Progress(f"preparing {there.name}", there.length, start=there.length - left) as progress,
        ThreadPoolExecutor(cores()) as pool,
    ):
        checked = ahead(items, lambda item: pool.submit(check, item).result, 2 * cores() - 1)
        for index, group in itertools.groupby(checked, key=lambda image: image.shard):
            path, count, skipped = folder / there.shard_file(index), 0, []
            with shards.committed(path, "uncompressed") as write:  # images are compressed already
                for image in group:
                    if image.reason:
                        skipped.append(Skipped(name=image.name, reason=image.reason))
                        _check_share([*bad, *skipped], raw, there.images, folder)
                    else:
                        write(image.record)
                        ranges.add(image.name, image.values)
                        count += 1
                    progress.advance()
            bad += skipped
            size = path.stat().st_size
            there = there.with_shard(ShardRecord(file=path.name, count=count, bytes=size, skipped=tuple(skipped)))
            there.write(folder)
    if told := ranges.told():  # only about the images checked now; the earlier run reported on the rest
        say(f"look at {there.images}: {told}")
    return there


def _check(serialize: Callable[[Mapping[str, Any]], bytes], max_pixels: int, image: tuple[int, Item]) -> _Checked:
    shard, item = image
    try:
        if item.size_bytes > MAX_BYTES:
            raise UserError(f"an image has {item.size_bytes:,} bytes, more than the limit of {MAX_BYTES:,}")
        data = item.load()
        values = check_image(data, max_pixels)
    except (UserError, PermissionError) as error:
        return _Checked(shard, item.place or item.name, reason=getattr(error, "strerror", None) or str(error))
    except OSError as error:  # the disk's or the network's fault, not the image's, which must not be left out for ever
        raise UserError(
            f"{item.place or item.name} cannot be read now ({error.strerror}); "
            "see to the disk, then the same command continues"
        ) from None
    return _Checked(shard, item.name, record=serialize({"image": data, "name": item.name}), values=values)


def _finish(folder: Path, written: Plan, raw: RawImages) -> str:
    """Makes the folder a TFDS dataset, and accounts for what is not in it. Returns the numbers in words."""
    skipped = [*_skipped(raw), *(each for shard in written.shards for each in shard.skipped)]
    _list(folder, skipped, raw.left_out)
    lengths = [shard.count for shard in written.shards]
    shards.describe(
        folder,
        written.name,
        _features(),
        f"The images of {written.images} with their bytes as they were; see {plan.FILE}",
        lengths,
        sum(shard.bytes for shard in written.shards),
        {SOURCE: f"{written.source}, shuffled" if written.shuffle else written.source},
    )
    parts = [
        f"{sum(lengths)} images, {len(skipped)} unreadable, other files: {raw.others}",
        folders.told(raw.left_out),
        f"beside the images, not read: {', '.join(raw.unread)}" if raw.unread else "",
        raw.called,
        f"{SKIPPED_FILE} lists those that are not in the set" if skipped or raw.left_out else "",
    ]
    return "; ".join(filter(None, parts))


def _features() -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict({"image": tfds.features.Image(), "name": tfds.features.Text()})


def _check_images(raw: RawImages, images: str) -> None:
    """Raises UserError if the source has no images, or too many that are skipped without being opened."""
    if not len(raw) and not raw.skipped:
        endings = f": {', '.join(raw.unread)}" if raw.unread else ""
        parts = [
            f"there are no images (other files: {raw.others}{endings})",
            folders.told(raw.left_out),
            raw.images_are,
        ]
        raise UserError(f"images='{images}': {'; '.join(filter(None, parts))}")
    _check_share([], raw, images)


def _check_share(bad: Sequence[Skipped], raw: RawImages, images: str, folder: Path | None = None) -> None:
    """Raises UserError if too many images are bad, and lists them in the folder, if there is one."""
    total, unreadable = len(raw) + len(raw.skipped), [*_skipped(raw), *bad]
    if len(unreadable) <= MAX_BAD_SHARE * total:
        return
    example = bad[-1] if bad else unreadable[0]
    listed = ""
    if folder is not None:
        _list(folder, unreadable)
        listed = f" (those found so far are listed in {folder / SKIPPED_FILE})"
    raise UserError(
        f"{len(unreadable)} of the {total} images of {images} cannot be read, {example.name} for instance "
        f"({example.reason}); "
        + ("convert them to JPEG or PNG" if example.reason == folders.NOT_READ else "mend them")
        + f", or correct config.images{listed}"
    )


def _skipped(raw: RawImages) -> list[Skipped]:
    return [Skipped(name=name, reason=reason) for name, reason in raw.skipped]


def _list(folder: Path, skipped: Sequence[Skipped], left_out: Sequence[Any] = ()) -> None:
    rows = [
        *(each.model_dump() for each in skipped),
        *({"name": each.name, "reason": each.reason, "images": each.images} for each in left_out),
    ]
    files.write_text(folder / SKIPPED_FILE, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
