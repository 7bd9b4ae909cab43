"""Reports what can be learnt at the network's input size, before the first update, and refuses if there is nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from must_jax.config.base import size_told
from must_jax.data.augment import letterbox_geometry, shown_cells
from must_jax.data.batching import Source, label_of, map_hw_of
from must_jax.data.decoding import decode_image, image_shape
from must_jax.data.image_sets import shared
from must_jax.data.kinds import BoxesLabel, Label, LabelKind, MapLabel, NoLabel, objects, place
from must_jax.errors import UserError
from must_jax.inputs import sampling
from must_jax.labels.summary import Summary, summarize
from must_jax.progress import counted, say
from must_jax.tasks.base import Task


@dataclass(frozen=True)
class Seen:
    """Sums over images of the supervision for one task.

    Attributes:
      left: summary of the labels as the network receives them.
      filled: images whose label is not empty, whatever its size.
      objects, small, over: boxes to learn; those too small at this size; those beyond the slots.
      inside: for the images in `filled`, the share of the network's cells that they fill.
      whole: the labels of all images were looked at.
    """

    left: Summary = field(default_factory=Summary)
    filled: int = 0
    objects: int = 0
    small: int = 0
    over: int = 0
    inside: float = 0.0
    whole: bool = True

    def add(self, other: Seen) -> Seen:
        numbers = ("filled", "objects", "small", "over", "inside")
        sums = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        return replace(self, left=self.left.add(other.left), **sums)

    @property
    def labelled(self) -> int:
        return self.left.images - self.left.absent

    @property
    def teaching(self) -> int:
        """Images with something left."""
        return self.labelled - self.left.empty


SeenByTask = dict[str, Seen]

_MOST_NAMED = 5  # classes
_EXPECTED = 10  # labels of a class that a sample should have, so that their absence is no chance


def check(
    sources: Sequence[Source],
    tasks: Mapping[str, Task],
    input_hw: tuple[int, int],
    accepted: Collection[str] = (),
    where: str = "",
) -> SeenByTask:
    """Prints for each task what there is to learn from; large sets are sampled (see `sampling`).

    Labels are processed as in training without augmentation: the whole image, fitted into the input.

    Args:
      accepted: tasks that are trained anyway.
      where: which of several sets of labels this is; "" = there is only one.

    Returns:
      What there is to learn from.

    Raises:
      UserError: nothing to learn from.
    """
    total = {name: Seen() for name in tasks}
    images = dict.fromkeys(tasks, 0)
    for source in sources:
        kinds = {column.task: tasks[column.task].label for column in source.columns}
        total = _add(total, _of_source(source, kinds, input_hw))
        images |= {name: images[name] + len(source.images) for name in kinds}
    for name, task in tasks.items():
        total[name] = seen = replace(total[name], whole=total[name].left.images == images[name])
        sample = f", in a sample of {seen.left.images:,} of {images[name]:,} images" if not seen.whole else ""
        prefix = f"{where}: " if where else ""
        reason, remedy = _nothing(seen, task, input_hw)
        if reason and name not in accepted:
            others = f", drop the task with --config.columns.drop={name}" if len(tasks) > 1 else ""
            override = "" if where else f", or train anyway with config.accept_failed={name}"
            raise UserError(
                f"{prefix}there is nothing to learn for {name}: {reason}{sample}; {remedy}{others}{override}"
            )
        accepted_as = f"; {reason} (accepted by config.accept_failed)" if reason else ""
        what = f"{prefix}{name} learns at image_size {size_told(input_hw)}"
        say(f"{what} from {_what_remains(seen, task)}{sample}{accepted_as}")
    return total


def labelled(learnt: SeenByTask, sources: Sequence[Source]) -> dict[str, int]:
    """Task -> images of the sources with something to learn: estimated, where `check` has looked at a sample."""
    found = {}
    for name, seen in learnt.items():
        images = sum(len(each.images) for each in sources if name in {column.task for column in each.columns})
        found[name] = math.ceil(seen.teaching * images / max(seen.left.images, 1))
    return found


def check_held_out(
    source: Source, tasks: Mapping[str, Task], input_hw: tuple[int, int], where: str, learnt: SeenByTask | None = None
) -> None:
    """Refuses truth that has nothing to measure predictions against: every score would be 0.

    Says if there is only one class, which is measured perfectly by a model that always predicts it, and if classes do
    not occur in training. Of large sets, both are judged by a sample.

    Args:
      where: where the config names it.
      learnt: what `check` returned for the labels to learn from.

    Raises:
      UserError: no label of a task that the source has, or empty ones only.
    """
    kinds = {column.task: tasks[column.task].label for column in source.columns}
    for name, seen in _of_source(source, kinds, input_hw).items():
        reason, remedy = _empty(seen)
        if reason:
            raise UserError(f"{where} ({source.images.name}): nothing to measure {name} against: {reason}; {remedy}")
        if only := _only_class(seen, tasks[name]):
            sample = "" if seen.left.images == len(source.images) else f" in a sample of {seen.left.images:,} images"
            say(
                f"look at {where} ({source.images.name}): '{only}' is the only class of {name} there{sample}, so a "
                "model that always predicts it gets a perfect score; add images of other classes"
            )
        if learnt and (unknown := _not_learnt(seen, learnt[name], tasks[name].classes)):
            say(
                f"look at {where} ({source.images.name}): there are labels of {', '.join(unknown[:_MOST_NAMED])}"
                f"{', ...' * (len(unknown) > _MOST_NAMED)}, but none among the {learnt[name].teaching:,} labels of "
                f"{name} for training that were looked at"
            )


def _not_learnt(seen: Seen, learnt: Seen, classes: tuple[str, ...]) -> list[str]:
    """The classes that occur in `seen` and not in `learnt`; if that is a sample, only if it should have several."""
    here, there = (each.left.images_with_class + [0] * len(classes) for each in (seen, learnt))
    least = 1 if learnt.whole else math.ceil(_EXPECTED * max(seen.teaching, 1) / max(learnt.teaching, 1))
    return [
        name for name, held_out, known in zip(classes, here, there, strict=False) if held_out >= least and not known
    ]


def overlap(some: Source, others: Source) -> str:
    """How many images of `some` are also in `others`, as "20 of its 60 images"; "" = none."""
    count = shared(some.images, others.images)
    return f"{count:,} of its {counted(len(some.images), 'image')}" if count else ""


def _of_source(source: Source, kinds: Mapping[str, LabelKind], input_hw: tuple[int, int]) -> SeenByTask:
    seen = none = {name: Seen() for name in kinds}
    look = functools.partial(_look, source, kinds, input_hw)
    if kinds:
        for seen in sampling.sums(
            f"looking at the labels of {source.images.name}", len(source.images), look, _add, none
        ):
            if all(each.teaching or each.filled >= sampling.LEAST for each in seen.values()):
                break
    return seen


def _add(some: SeenByTask, others: SeenByTask) -> SeenByTask:
    return {name: seen.add(others[name]) if name in others else seen for name, seen in some.items()}


def _look(source: Source, kinds: Mapping[str, LabelKind], input_hw: tuple[int, int], index: int) -> SeenByTask:
    """The supervision of one image."""
    try:
        found = {name: label for name in kinds if (label := label_of(source, name, index)) is not None}
        seen = {name: Seen(summarize(kinds[name], label)) for name, label in found.items()}
        filled = {name: found[name] for name, each in seen.items() if each.teaching}
        if filled:  # otherwise the image need not be read
            seen |= _placed(filled, kinds, _image_hw(source.images.record(index)["image"]), input_hw)
    except Exception:  # broken in any way; training skips it and names it
        seen = {}
    absent = Seen(Summary(images=1, absent=1))
    return {name: seen.get(name, absent) for name in kinds}


def _placed(
    labels: Mapping[str, Label], kinds: Mapping[str, LabelKind], image_hw: tuple[int, int], input_hw: tuple[int, int]
) -> SeenByTask:
    """Non-empty labels, at the network's size."""
    geometry, map_hw = letterbox_geometry(image_hw, input_hw), map_hw_of(input_hw)
    rows, columns = map(shown_cells, geometry, map_hw)
    inside = (rows.stop - rows.start) * (columns.stop - columns.start) / math.prod(map_hw)
    seen = {}
    for name, label in labels.items():
        kind = kinds[name]
        boxes: dict[str, Any] = {}
        target = place(geometry, {name: label}, {name: kind}, map_hw)[name]
        if isinstance(kind, BoxesLabel):
            slots = replace(kind, max_boxes=max(kind.max_boxes, len(label["valid"])))
            every = place(geometry, {name: label}, {name: slots}, map_hw)[name]
            there, fitting, left = (int(objects(each).sum()) for each in (label, every, target))
            boxes = {"objects": there, "small": there - fitting, "over": fitting - left}
        seen[name] = Seen(summarize(kind, target), filled=1, inside=inside, **boxes)
    return seen


def _image_hw(data: bytes) -> tuple[int, int]:
    shape = image_shape(data)
    if shape is not None:
        return shape.hw
    height, width, _ = decode_image(data).shape
    return height, width


def _what_remains(seen: Seen, task: Task) -> str:
    images = f"{seen.teaching:,} of {counted(seen.labelled, 'labelled image')}"
    match task.label:
        case BoxesLabel(max_boxes=slots):
            left = seen.objects - seen.small - seen.over
            lost = f"{seen.small:,} smaller than a pixel, {seen.over:,} beyond max_boxes {slots}"
            parts = [f"{left:,} of {counted(seen.objects, 'box')} in {images} ({lost})"]
        case MapLabel():
            valid = 100 * seen.left.covered / seen.inside if seen.inside else 0.0
            parts = [f"{valid:.3g} % of the cells in {images}"]
        case NoLabel():
            parts = [f"{counted(seen.teaching, 'image')}, without labels"]
        case _:
            parts = [images]
    if task.classes:
        parts.append(seen.left.told_classes(task.label, task.classes))
    return "; ".join(parts)


def _nothing(seen: Seen, task: Task, input_hw: tuple[int, int]) -> tuple[str, str]:
    """Why nothing can be learnt, and what to do; ("", "") if something can."""
    boxes = isinstance(task.label, BoxesLabel)
    if not seen.filled:
        return _empty(seen)
    if not seen.teaching and boxes:
        small = f"{seen.small:,} of {seen.objects:,} are smaller than a pixel"
        return f"no box is left at image_size {size_told(input_hw)}, {small}", "increase image_size"
    if not seen.teaching:
        return f"no labelled cell is left at image_size {size_told(input_hw)}", "increase image_size"
    if (only := _only_class(seen, task)) and (len(task.classes) == 1 or seen.whole):
        return f"'{only}' is the only class, and one class alone teaches nothing", "add images of other classes"
    return "", ""


def _only_class(seen: Seen, task: Task) -> str:
    """The only class of the images or pixels that were looked at; "" if there are more, and for boxes."""
    occurring = [name for name, count in zip(task.classes, seen.left.images_with_class, strict=False) if count]
    return occurring[0] if len(occurring) == 1 and not isinstance(task.label, BoxesLabel) else ""


def _empty(seen: Seen) -> tuple[str, str]:
    """As `_nothing`, whatever the task and the size."""
    if not seen.labelled:
        return "no image has a readable label", "provide labels"
    if not seen.filled:
        return f"all {seen.labelled:,} labels are empty", "provide labels that are not empty"
    return "", ""
