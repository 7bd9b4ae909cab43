"""Image sets: ordered, randomly accessible images, each with its original encoded bytes and the truth stored beside it.

A TFDS dataset on ArrayRecord and a folder of photos look the same from here on.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow_datasets as tfds

from must_jax.data import folders, photos, scenes, units
from must_jax.data.datasets import check_shards, open_dataset, reading
from must_jax.data.kinds import BoxesLabel, Label, LabelKind, VectorLabel, kind_from_dict
from must_jax.data.records import Records
from must_jax.data.sample import drawn
from must_jax.errors import UserError, nearest
from must_jax.files import is_same_path
from must_jax.progress import say

_STATTED_TOGETHER, _STATTING = 1000, 16  # files at a time in each thread; threads, which wait for the network
_CACHED_RECORDS = 64  # for all threads together: the image and labels of a record are read one after the other
_AGAIN = "delete that folder and prepare it again, or bring it back from a copy"  # advice for a damaged dataset
FILES = ("folder", "tar", "parquet")  # kinds of images whose name goes on with a path
SOURCE = "source"  # in a prepared set's metadata: the digest of what it was made from
_IGNORED = ("is_crowd", "is_difficult", "difficult", "is_group_of")  # marks of TFDS's objects: COCO, VOC, Open Images


class Column(Protocol):
    """One task's labels for every image of an image set, in the set's order."""

    task: str
    kind: LabelKind
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Label:
        """The decoded label, with boxes un-padded and maps at their stored size."""
        ...

    def in_unit(self, unit: str) -> Column:
        """The same column of maps, read in another unit, for which `units.can_be_read` is true."""
        ...


def in_unit_of(column: Column, kind: LabelKind | None) -> Column:
    """The column in the unit of `kind`; as it is, if it cannot be read in that, or without a kind."""
    unit, wanted = column.kind.unit, kind.unit if kind else ""
    return column.in_unit(wanted) if unit != wanted and units.can_be_read(unit, wanted) else column


class Truth(NamedTuple):
    """How an image set's records hold the labels of one task."""

    kind: LabelKind
    classes: tuple[str, ...]
    feature: str
    read: Callable[[Any], Label]  # from the feature's value


class TruthColumn:
    """Labels stored in the image set's own records."""

    def __init__(self, images: ImageSet, task: str, truth: Truth) -> None:
        self.task, self.kind, self.classes = task, truth.kind, truth.classes
        self._images, self._truth = images, truth

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Label:
        label = self._truth.read(self._images.record(index)[self._truth.feature])
        return self.kind.converted(label, self._truth.kind.unit)

    def in_unit(self, unit: str) -> TruthColumn:
        column = copy.copy(self)
        column.kind = self.kind.in_unit(unit)
        return column


Found = range | set[int]  # positions in a split, or numbers of files (inodes) on a disk


class Place(NamedTuple):
    """Which part of a TFDS dataset an image set is.

    Attributes:
      folder: the dataset's, above its versions; label columns may be there, too.
      split: its name.
      positions: i32[n], positions of the images in their whole split.
      whole: opens that split.
    """

    folder: Path
    split: str
    positions: np.ndarray
    whole: Callable[[], ImageSet]


class ImageSet:
    """An ordered set of images; thread-safe.

    Attributes:
      name: what the user asked for, e.g. "scenes/unlabelled:train".
      digest: 16 hex digits, the same whatever `take` is. For a folder, they depend on the names and sizes of its image
        files; for TFDS data, on name, version, split, number of records, features, the contents of the first and last
        record, and, for a prepared set, the digest of its source.
      labels: the truth stored with the images, by task.
      skipped: (path, reason) for each image of a folder that cannot be read; with `take`, for those met on the way.
      place: where the images are in a TFDS dataset; None for a folder, and for images of several splits.
      found_at: the set's images: disk -> numbers of files; dataset and split -> positions, none twice.
      sampled: whether `take` has left out images.
      numbers: i32[n], ascending numbers of the images among all files of the folder, or records of the slices.
      taking: opens the same set with another `take`.
    """

    def __init__(
        self,
        name: str,
        length: int,
        read: Callable[[int], Mapping[str, Any]],
        digest: str,
        truth: Mapping[str, Truth] | None = None,
        skipped: Sequence[tuple[str, str]] = (),
        place: Place | None = None,
        found_at: Callable[[], Mapping[str, list[Found]]] = dict,
        name_of: Callable[[int], str] | None = None,
        sampled: bool = False,
        numbers: np.ndarray | None = None,
        taking: Callable[[int], ImageSet] | None = None,
    ) -> None:
        self.name, self.digest, self.skipped, self.place = name, digest, list(skipped), place
        self.found_at = functools.cache(found_at)
        self.sampled, self.numbers = sampled, np.arange(length, dtype=np.int32) if numbers is None else numbers
        self.taking = functools.cache(taking or (lambda take: self))
        self.labels = {task: TruthColumn(self, task, each) for task, each in (truth or {}).items()}
        self._length = length
        self._read = functools.lru_cache(_CACHED_RECORDS)(read)
        self._name_of = name_of or (lambda index: self.record(index)["name"])

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, which only read records."""
        state = {key: vars(self)[key] for key in ("name", "digest", "labels", "_length")}
        return state | {"_read": self._read.__wrapped__}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._read = functools.lru_cache(_CACHED_RECORDS)(state["_read"])

    def __len__(self) -> int:
        return self._length

    def record(self, index: int) -> Mapping[str, Any]:
        """`{"image": encoded bytes, "name": str, ...}` and each stored label's sub-dict; do not change it.

        Names can be stored as text: bytes of a file's name that are not UTF-8 are written as \\xff.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"image {index} of {self.name}, which has {self._length}")
        return self._read(int(index))

    def name_of(self, index: int) -> str:
        """The `name` in an image's record; for a photo in a folder, without reading it."""
        return self._name_of(index)

    def which(self) -> str:
        """16 hex digits, which differ between samples of one length; "" if `take` has left out nothing.

        In place of a photo that cannot be read a sample has another one, and neither length nor digest tell.
        """
        return hashlib.sha256(self.numbers.astype("<i4").tobytes()).hexdigest()[:16] if self.sampled else ""


def shared(some: ImageSet, others: ImageSet) -> int:
    """How many images of `some` are also in `others`: the same record or file, which may be a link, but is no copy."""
    if len({each.name.startswith("folder:") for each in (some, others)}) > 1:  # a file is no record
        return 0
    mine, theirs = some.found_at(), others.found_at()
    return sum(_common(a, b) for place in mine.keys() & theirs.keys() for a in mine[place] for b in theirs[place])


def are_same(one: str, other: str) -> bool:
    """Whether two names of images mean the same: paths can be written in several ways."""
    (kind, _, path), (other_kind, _, other_path) = one.partition(":"), other.partition(":")
    return one == other or (kind == other_kind in FILES and is_same_path(path, other_path))


def _apart(ranges: Iterable[range]) -> Iterator[range]:
    """The same positions, each once, in order."""
    end = 0
    for each in sorted(ranges, key=lambda each: each.start):
        yield range(max(each.start, end), max(each.stop, end))
        end = max(each.stop, end)


def _common(some: Found, others: Found) -> int:
    if isinstance(some, range) and isinstance(others, range):
        return len(range(max(some.start, others.start), min(some.stop, others.stop)))
    return sum(position in others for position in some)


def _parts(split: str) -> list[str]:
    return [part.strip() for part in split.split("+")]


def check_splits(spec: str, split: str, known: Collection[str]) -> None:
    """Raises UserError if a part of "train[:10]+validation" is of a split that does not exist."""
    for part in _parts(split):
        if (name := part.partition("[")[0]) not in known:
            raise UserError(f"images='{spec}': there is no split '{name}'; {nearest(name, known)}")


def evenly_spread(length: int, most: int) -> list[int]:
    """Evenly spread positions of at most `most` of `length` images."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(int)).tolist()


def open_images(spec: str, data_dir: str | Path, take: int = 0) -> ImageSet:
    """Opens "scenes/CONFIG:SPLIT" (rendered on first use), "NAME/CONFIG:SPLIT" of other TFDS data, or "folder:PATH".

    Args:
      data_dir: where TFDS datasets live.
      take: a sample of n images, the same everywhere, and part of every larger sample; 0 = all.

    Raises:
      UserError: nothing is there, the config or split is unknown (names the nearest), or no image is readable.
    """
    if spec.startswith("folder:"):
        return _open_folder(spec, data_dir, take)
    dataset, _, split = spec.partition(":")  # a slice may contain another ":"
    if not dataset or not split:
        raise UserError(f"images='{spec}' must be 'NAME/CONFIG:SPLIT' of a TFDS dataset, or 'folder:PATH'")
    if dataset in FILES:
        raise UserError(
            f"images='{spec}' are not an image set yet; run configs/prepare.py on them, then use the name of the set"
        )
    data_dir = Path(data_dir).expanduser()
    if dataset.startswith("scenes/"):
        folder = scenes.prepare(dataset.removeprefix("scenes/"), data_dir)
    else:
        folder = _newest_version(data_dir / dataset)
    return _open_tfds(spec, folder, split, take)


def _open_folder(spec: str, data_dir: str | Path, take: int) -> ImageSet:
    folder = Path(spec.removeprefix("folder:")).expanduser()
    if not folder.is_dir():
        raise UserError(f"images='{spec}': there is no folder {folder}; name a folder with photos")
    listing = folders.list_folder(folder)
    skipped = [(folders.printable(str(folder / name)), reason) for name, reason in listing.skipped]
    if left_out := folders.told(listing.hidden):
        say(f"{spec}: {left_out}")
    checked = photos.check(spec, folder, listing, take)
    skipped += checked.skipped
    numbers, names = checked.readable, photos.Names([name for name, _ in listing.images])
    if not len(numbers):
        first = ", the first is {}: {}".format(*skipped[0]) if skipped else f"; {left_out}" if left_out else ""
        raise UserError(
            f"images='{spec}': no readable image in {folder} (unreadable: {len(skipped)}{first}); "
            f"put files ending in {', '.join(folders.IMAGE_SUFFIXES)} there"
        )
    if checked.told:
        say(f"look at {spec}: {checked.told}")

    def name_of(index: int) -> str:
        return folders.printable(names[numbers[index]])

    def read(index: int) -> dict[str, Any]:
        return {"image": (folder / names[numbers[index]]).read_bytes(), "name": name_of(index)}

    def found_at() -> Mapping[str, list[Found]]:
        there: dict[int, set[int]] = {}
        starts = range(0, len(numbers), _STATTED_TOGETHER)
        chunks = ([names[number] for number in numbers[start : start + _STATTED_TOGETHER]] for start in starts)
        with ThreadPoolExecutor(_STATTING) as pool:
            for disk, inode in itertools.chain.from_iterable(pool.map(functools.partial(_inodes, folder), chunks)):
                there.setdefault(disk, set()).add(inode)
        return {f"disk {disk}": [inodes] for disk, inodes in there.items()}

    return ImageSet(
        spec,
        len(numbers),
        read,
        folders.digest(listing.images),
        skipped=skipped,
        found_at=found_at,
        name_of=name_of,
        sampled=len(numbers) == take < len(names),
        numbers=numbers,
        taking=functools.partial(open_images, spec, data_dir),
    )


def _inodes(folder: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Disk and number of these files, without those that are gone."""
    found = []
    for name in names:
        with contextlib.suppress(OSError):
            file = os.stat(f"{folder}/{name}")
            found.append((file.st_dev, file.st_ino))
    return found


def _newest_version(folder: Path) -> Path:
    """The newest version's folder of a prepared TFDS dataset."""
    if not folder.is_dir():
        raise UserError(f"there is no TFDS dataset in {folder}; prepare it there, or change data_dir or images")
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    if not versions:
        raise UserError(
            f"{folder} has no VERSION/dataset_info.json, so it is not a prepared TFDS dataset; is its config missing, "
            "or its preparation not finished?"
        )
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".") if part.isdecimal()])


def _open_tfds(spec: str, folder: Path, split: str, take: int) -> ImageSet:
    builder = open_dataset(folder, _AGAIN)
    with reading(folder, _AGAIN):
        return _opened(spec, folder, split, take, builder)


def _opened(spec: str, folder: Path, split: str, take: int, builder: tfds.core.DatasetBuilder) -> ImageSet:
    info = builder.info
    features = dict(info.features.items())
    check_splits(spec, split, info.splits)
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(f"{folder} is stored as {info.file_format.value}; prepare it with --file_format=array_record")
    if not isinstance(features.get("image"), tfds.features.Image):
        raise UserError(f"images='{spec}': the dataset has no feature 'image'; known: {', '.join(features)}")
    truth = _stored_truth(info)
    named_by = next((key for key in ("name", "file_name", "id") if key in features), None)
    needed = {"image", named_by, *(each.feature for each in truth.values())}
    if not _count(info, split):
        raise UserError(f"images='{spec}': '{split}' selects no images; write a split, or part of one as 'train[:100]'")
    parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(info.splits)
    slices = [(part.splitname, range(info.splits[part.splitname].num_examples)[part.from_ : part.to]) for part in parts]
    used = {name for name, _ in slices}
    check_shards(builder, sorted(used), _AGAIN)
    records = Records(builder, split, [key for key in features if key in needed])

    def read(index: int) -> dict[str, Any]:
        record = records[index]
        name = record[named_by] if named_by else f"{index:08d}"
        return record | {"name": name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)}

    identity = [info.full_name, split, len(records), info.features.to_json()]
    if info.metadata and SOURCE in info.metadata:
        identity.append(info.metadata[SOURCE])
    ends = [records.canonical(index) for index in (0, len(records) - 1)]
    checksum = hashlib.sha256(b"".join([json.dumps(identity, sort_keys=True).encode(), *ends]))
    digest, whole = checksum.hexdigest()[:16], sorted(used)[0]

    def taking(take: int) -> ImageSet:
        numbers = drawn(len(records), take)
        sampled = len(numbers) < len(records)

        def found_at() -> Mapping[str, list[Found]]:
            there: dict[str, list[Found]] = {}
            for name in used:
                if sampled:
                    there[name] = [set(_positions(slices, numbers, name).tolist())]
                else:
                    there[name] = [*_apart(positions for split, positions in slices if split == name)]
            return {f"{os.path.realpath(folder)}:{name}": found for name, found in there.items()}

        def place() -> Place:
            opened = functools.partial(_open_tfds, f"{spec.partition(':')[0]}:{whole}", folder, whole, 0)
            return Place(folder.parent, whole, _positions(slices, numbers, whole), functools.cache(opened))

        return ImageSet(
            spec,
            len(numbers),
            lambda index: read(int(numbers[index])),
            digest,
            truth,
            place=place() if len(used) == 1 else None,
            found_at=found_at,
            sampled=sampled,
            numbers=numbers,
            taking=taking,
        )

    return taking(take)


def _positions(slices: Sequence[tuple[str, range]], numbers: np.ndarray, split: str) -> np.ndarray:
    """i32[n], positions in their split of those of the images with these numbers that are in it."""
    found, start = [np.zeros(0, np.int32)], 0
    for name, positions in slices:
        first, end = np.searchsorted(numbers, [start, start + len(positions)])
        found += [numbers[first:end] + np.int32(positions.start - start)] if name == split else []
        start += len(positions)
    return np.concatenate(found)


def _count(info: tfds.core.DatasetInfo, split: str) -> int:
    """Number of images in a split or slices; 0 if one is empty or malformed, or goes beyond the end."""
    try:
        counts = [info.splits[part].num_examples for part in _parts(split)]
    except ValueError:
        return 0
    return sum(counts) if min(counts) > 0 else 0  # TFDS counts from a later image to an earlier one as below 0


def _stored_truth(info: tfds.core.DatasetInfo) -> dict[str, Truth]:
    """Labels by task: those described in our metadata, else those under TFDS's usual names for classes and boxes."""
    if info.metadata and "tasks" in info.metadata:
        return {task: _own_truth(task, about) for task, about in info.metadata["tasks"].items()}
    features = dict(info.features.items())
    truth = {}
    if isinstance(label := features.get("label"), tfds.features.ClassLabel):
        truth["classification"] = Truth(
            VectorLabel(label.num_classes),
            tuple(label.names),
            "label",
            functools.partial(_one_hot, label.num_classes),
        )
    objects = getattr(features.get("objects"), "feature", None)  # of a sequence
    if isinstance(objects, tfds.features.FeaturesDict) and {"bbox", "label"} <= set(objects.keys()):
        truth["detection"] = Truth(BoxesLabel(max_boxes=100), tuple(objects["label"].names), "objects", _read_objects)
    return truth


def _own_truth(task: str, about: Mapping[str, Any]) -> Truth:
    kind = kind_from_dict(about["kind"])
    return Truth(kind, tuple(about["classes"]), task, functools.partial(kind.decode, classes=len(about["classes"])))


def _one_hot(classes: int, index: int) -> Label:
    """TFDS marks a hidden class with -1."""
    return {"probs": np.eye(classes, dtype=np.float32)[index], "present": np.float32(index >= 0)}


def _read_objects(objects: Mapping[str, Any]) -> Label:
    """Boxes without area are left out; those of crowds, groups and difficult objects get `ignore` 1."""
    boxes_yxyx = np.asarray(objects["bbox"], np.float32).reshape(-1, 4)
    real = np.all(boxes_yxyx[:, 2:] > boxes_yxyx[:, :2], axis=1)
    marks = [np.asarray(objects[name]) > 0 for name in _IGNORED if name in objects]  # -1 = not known
    ones = np.ones(np.count_nonzero(real), np.float32)
    return {
        "boxes_yxyx": boxes_yxyx[real],
        "classes": np.asarray(objects["label"], np.int32)[real],
        "scores": ones,
        "valid": ones,
        "ignore": np.any([np.zeros(real.shape, bool), *marks], axis=0)[real].astype(np.float32),
        "present": np.float32(1),
    }
