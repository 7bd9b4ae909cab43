"""What a kind of label is: the form of labels, their encoding, geometry, thresholds and statistics.

A *label* is a dict of NumPy arrays for one image; a task says which kind its labels are. Shape legend:
`K` classes, `N` box slots, `h w` map rows and columns.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pydantic
from tensorflow_datasets.proto import tf_example_pb2

from must_jax.data.augment import Geometry
from must_jax.data.confidence import Least
from must_jax.data.kinds.statistics import Bars, Statistics, histogram
from must_jax.data.letterbox import Content
from must_jax.errors import UserError

Label = dict[str, Any]  # NumPy arrays, and `present`, an f32 scalar: 1 labelled, 0 not labelled
NUMBERS = {"i": "int64_list", "u": "int64_list", "b": "int64_list", "f": "float_list"}  # by dtype.kind


class Contents(NamedTuple):
    """What a label says, to be counted.

    Attributes:
      classes: i[n], those of the things that are found: the most likely one, those of boxes, those of pixels.
      confidence: f[m], of those things; pixels have none.
      known: bool[h, w], the labelled pixels of a map.
    """

    classes: np.ndarray
    confidence: np.ndarray
    known: np.ndarray | None = None


NOTHING = np.zeros(0, np.int64)  # no classes, or no confidences


class LabelKind(abc.ABC):
    """A kind of label: a frozen dataclass, whose fields say what labels of this kind hold.

    Attributes:
      MARKS: the values by which the kind is told from others in manifests.
      called: the kind, in words.
      things: what has a class or a confidence.
      sure_by: what its confidence is called.
      one_class_teaches: whether one class alone can be learnt, from a background.
      can_keep_confidence: whether the confidence can be stored instead of applying a threshold.
      unit: of a map's values; "" = none.
    """

    MARKS: ClassVar[Mapping[str, str]]
    called: ClassVar[str]
    things: ClassVar[str]
    sure_by: ClassVar[str]
    one_class_teaches: ClassVar[bool] = False
    can_keep_confidence: ClassVar[bool] = False
    unit = ""

    # In manifests and dataset metadata

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.MARKS, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; fields that an earlier version did not have get their defaults.

        Raises:
          ValueError: unknown fields, or other types.
        """
        fields = {name: value for name, value in values.items() if name not in cls.MARKS}
        if fields.keys() - {field.name for field in dataclasses.fields(cls)}:  # type: ignore[arg-type]
            raise ValueError(f"{values} is not a kind of label")
        return pydantic.TypeAdapter(cls).validate_python(fields)

    def layout(self) -> LabelKind:
        """What labels and a model must share: not slots, which are padded, nor a unit, which is up to the task."""
        return self

    def in_unit(self, unit: str) -> LabelKind:
        """The same kind of map, with another unit that its values can be read in."""
        return self

    def converted(self, label: Label, unit: str) -> Label:
        """A label that is stored in `unit`, in that of this kind; see `units.can_be_read`."""
        return label

    # Storage

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """TFDS features of a label's sub-dict, without `present`; the classes' docstrings describe them."""

    def encode(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """A label -> the values that a builder with `features` takes. Missing fields count as 1, but `ignore` as 0.

        Raises:
          UserError: class ids that do not fit.
          ValueError: something is to be stored for which this kind has no place.
        """
        present = int(label.get("present", 1))
        return {"present": present, **self._encoded(label if present else self._placeholder())}

    def serialize(self, record: Mapping[str, Any]) -> bytes:
        """What `encode` returns -> the bytes TFDS would store, in a fraction of its time; of equal records, equal."""
        example = tf_example_pb2.Example()
        for name, value in self._packed(record).items():
            feature = example.features.feature[name]
            if isinstance(value, bytes):
                feature.bytes_list.value.append(value)
                continue
            array = np.asarray(value)
            values = getattr(feature, NUMBERS[array.dtype.kind])
            values.SetInParent()  # also where it is empty
            values.value.extend(array.ravel().tolist())
        return example.SerializeToString(deterministic=True)  # TFDS's own order follows the process's hash seed

    def decode(self, record: Mapping[str, Any], classes: int = 0) -> Label:
        """A sub-dict read with images left as bytes -> the label: boxes un-padded, maps as stored, 0 where invalid.

        Raises:
          UserError: a class id beyond the number of `classes` (0 = not known); it would make a loss NaN.
        """
        return {"present": np.float32(record["present"]), **self._decoded(record, classes)}

    @abc.abstractmethod
    def absent(self, map_hw: tuple[int, int]) -> Label:
        """The placeholder for a label that an image does not have: `present` 0, nothing valid."""

    @abc.abstractmethod
    def most_bytes(self, map_hw: tuple[int, int]) -> int:
        """An upper estimate of the codes of a label, before compression."""

    def as_stored(self, label: Mapping[str, np.ndarray]) -> Label:
        """The label with its confidence rounded as it is when stored."""
        return dict(label)

    @abc.abstractmethod
    def _encoded(self, label: Mapping[str, np.ndarray]) -> dict[str, Any]: ...
    @abc.abstractmethod
    def _decoded(self, record: Mapping[str, Any], classes: int) -> dict[str, Any]: ...

    def _packed(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values as bytes, of features that TFDS stores so."""
        return record

    def _placeholder(self) -> Label:
        return self.absent((1, 1))

    # Geometry

    @abc.abstractmethod
    def placed(self, geometry: Geometry, label: Label, map_hw: tuple[int, int]) -> Label:
        """A label, as decoded, as a target of static shape: where `geometry` puts it in the network's input.

        Args:
          map_hw: rows and columns of the returned maps; they cover the whole input.
        """

    @abc.abstractmethod
    def on_image(self, prediction: Mapping[str, np.ndarray], content: Content, hw: tuple[int, int]) -> Label:
        """A prediction for the whole input -> for the image alone, its maps with `hw` rows and columns.

        Boxes are clipped to the image; those outside it become invalid. Maps are interpolated linearly; unit vectors
        are then normalised again. A map of ids has to be made from its probabilities, by the task.
        """

    def cut_padding(self, label: Label, content: Content) -> Label:
        """A label of the whole input -> the label of the image in its top left corner.

        Boxes are clipped to the image and left out where they lie outside. Maps keep their stride; where that does not
        divide the content, they are resampled by less than half a cell: ids by nearest neighbour, others linearly.
        """
        return self.on_image(label, content, (0, 0))

    def turned(self, label: Label, transposed: bool, reversed_y: bool, reversed_x: bool) -> Label:
        """A label whose image is turned: rows and columns swapped, or not, then reversed, or not."""
        return label

    def map_hw(self, label: Mapping[str, np.ndarray]) -> tuple[int, int]:
        """Rows and columns of a map; (0, 0) of other kinds."""
        return 0, 0

    def without_empty_slots(self, label: Mapping[str, np.ndarray]) -> Label:
        """The label as it is, but boxes without the rows that only fill slots."""
        return dict(label)

    # Thresholds

    @property
    def has_confidence(self) -> bool:
        """Whether labels say how sure they are."""
        return True

    @property
    def keeps_confidence(self) -> bool:
        """Whether labels are stored with what a threshold would leave out, so that any can be applied later."""
        return False

    def confident(self, label: Label, least: Least) -> Label:
        """The label without anything less sure than `least`.

        A vector whose largest probability is smaller becomes absent, boxes with a smaller score are dropped, and
        pixels with a smaller confidence become the kind's `ignore_id`.

        Raises:
          ValueError: labels of this kind do not say how sure they are.
        """
        if not label["present"]:
            return label
        if not self.has_confidence:
            raise ValueError(f"{self} has no confidence")
        return self._confident(label, least)

    def by_rule(self, label: Label, least: Least) -> Label:
        """The label that a rule with this threshold asks for, as it is stored unless its confidence is kept."""
        return self.confident(label, least) if self.keeps_confidence else label

    def _confident(self, label: Label, least: Least) -> Label:
        """Of kinds that have a confidence."""
        raise NotImplementedError

    # Statistics

    @abc.abstractmethod
    def is_empty(self, label: Mapping[str, np.ndarray]) -> bool:
        """Whether a label says nothing, because nothing was found or sure enough: no box, no labelled pixel."""

    @abc.abstractmethod
    def contents(self, label: Mapping[str, np.ndarray]) -> Contents:
        """What a present label says."""

    @abc.abstractmethod
    def rank(self, label: Mapping[str, np.ndarray]) -> float | None:
        """How sure a label is, or how varied or complete without a confidence; None if there is nothing to rank."""

    @abc.abstractmethod
    def rank_name(self, statistics: Statistics) -> str:
        """What `rank` means for labels like these."""

    def count(self, label: Mapping[str, np.ndarray], position: int, into: Statistics) -> None:
        """Adds the label of the image at `position` to statistics."""
        into.images += 1
        if not label["present"]:
            into.absent += 1
            return
        if broken := not_finite(label):  # nothing else can be said about it
            into.not_finite += broken
            return
        into.empty += self.is_empty(label)
        self._count(label, into)
        if (value := self.rank(label)) is not None:
            into.ranked(value, position)

    def _count(self, label: Mapping[str, np.ndarray], into: Statistics) -> None:
        contents = self.contents(label)
        into.count(contents.classes)
        into.confidence += histogram(contents.confidence)

    def readable(self, statistics: Statistics, classes: Sequence[str]) -> dict[str, Any]:
        """Statistics as JSON values, shares in percent; only those that labels of this kind have."""
        values: dict[str, Any] = {
            "images": statistics.images,
            "absent": statistics.absent,
            "unreadable": statistics.unreadable,
            "not_finite": statistics.not_finite,
            "empty_share": 100 * statistics.empty / statistics.labelled,
        }
        if statistics.confidence.any():
            values["confidence"] = statistics.confidence.tolist()
        if len(classes):
            counts = zip(classes, statistics.class_images.tolist(), statistics.class_amount.tolist(), strict=True)
            values["classes"] = {name: {"images": images, "labels": amount} for name, images, amount in counts}
        return values

    def told(self, statistics: Statistics, classes: Sequence[str]) -> list[str]:
        """What labels hold besides their classes, in words in which a wrong unit, axis or scale shows at once."""
        return []

    def histograms(self, statistics: Statistics) -> list[Bars]:
        """What is worth a picture."""
        if not statistics.confidence.any():
            return []
        return [Bars.of_shares(f"{self.things} by {self.sure_by}", statistics.confidence)]

    def compared(self, label: Label, truth: Label) -> tuple[Label, Label]:
        """The label at the resolution of the truth, and the truth without the pixels that the label leaves out.

        Leaving them out was the rule's decision. Maps of ids are resampled by nearest neighbour, others linearly;
        pixels whose value would be mixed with an invalid one are left out, too.
        """
        return label, truth


def not_finite(label: Mapping[str, np.ndarray]) -> int:
    """Values that are NaN or infinite."""
    return sum(int(np.count_nonzero(~np.isfinite(values))) for values in label.values())


def check_ids(ids: np.ndarray, classes: int) -> None:
    """Raises UserError if there are more than so many classes; 0 = not known."""
    if classes and ids.size and ids.max() >= classes:
        raise UserError(f"a label has class id {ids.max()}, but its data lists {classes} classes; correct either")


def place(
    geometry: Geometry, labels: Mapping[str, Label], kinds: Mapping[str, LabelKind], map_hw: tuple[int, int]
) -> dict[str, Label]:
    """The labels of an image as targets of static shapes, by task; one that is missing, or not present, as absent.

    Args:
      labels: by task, as decoded: un-padded, maps of any size, zeros where invalid.
      kinds: of the tasks to return.
      map_hw: rows and columns of the returned maps; they cover the whole input.
    """
    return {
        task: kind.placed(geometry, label, map_hw)
        if (label := labels.get(task)) is not None and label["present"]
        else kind.absent(map_hw)
        for task, kind in kinds.items()
    }
