"""The findings of an audit as the contents of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from must_jax.config import AuditConfig
from must_jax.data.image_sets import ImageSet
from must_jax.data.kinds import LabelKind, MapLabel
from must_jax.data.kinds.statistics import Ranked
from must_jax.progress import say
from must_jax.report import audit_page as report
from must_jax.report.audit_page import Audit, Class, Column, Histogram, Shown
from must_jax.report.gallery import Picture, opened, thumbnail

if TYPE_CHECKING:
    from must_jax.auditing.findings import Duplicate, Result

MOST_DUPLICATES = 24  # shown at most


def write(
    path: Path,
    config: AuditConfig,
    images: ImageSet,
    labels_read: int,
    results: Sequence[Result],
    duplicates: Sequence[Duplicate],
) -> None:
    """The page at `path`."""
    contents = Audit(
        images=images.name,
        image_count=len(images),
        labels_read=labels_read,
        columns=[_column(result, images) for result in results],
        evaluation=config.evaluation,
        duplicate_count=len(duplicates),
        duplicates=[_duplicate(images, duplicate) for duplicate in duplicates[:MOST_DUPLICATES]],
    )
    _say_missing(contents)
    report.write(contents, path)


def _column(result: Result, images: ImageSet) -> Column:
    column, statistics = result.column, result.statistics
    teacher = column.manifest.teacher
    counts = zip(column.classes, statistics.class_images.tolist(), statistics.class_amount.tolist(), strict=True)
    shown_before = {position for _, position in statistics.most}
    return Column(
        name=column.folder.name,
        task=column.task,
        maker=f"{column.manifest.maker} {teacher.digest[:8]}" if teacher else f"{column.manifest.maker} (truth)",
        verdict=result.audited.verdict,
        findings=[(finding.level, finding.reason) for finding in result.audited.findings],
        validation=_short(teacher.metrics if teacher else {}),
        scores=result.scores,
        facts=_facts(column.kind.readable(statistics, column.classes), column.kind),
        histograms=[Histogram(*bars) for bars in column.kind.histograms(statistics)],
        classes=[Class(*each) for each in counts],
        counted=column.kind.things,
        rank=column.kind.rank_name(statistics),
        most=_shown(result, images, statistics.most),
        least=_shown(result, images, [each for each in statistics.least if each[1] not in shown_before]),
    )


def _short(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without the prefix of the task's name."""
    return {name.partition("/")[2] or name: value for name, value in metrics.items()}


def _facts(known: Mapping[str, Any], kind: LabelKind) -> dict[str, str]:
    """Formatted figures."""
    facts = {
        "labels read": f"{known['images']:,}",
        "not labelled": f"{known['absent']:,}",
        "empty": f"{known['empty_share']:.1f} %",
    }
    facts |= {name: f"{known[key]:,}" for name, key in _BROKEN.items() if known[key]}
    if "boxes_an_image" in known:
        facts["boxes per image"] = f"{known['boxes_an_image']:.2f}"
    if "labelled_pixels" in known:
        facts["ignored pixels"] = f"{100 - known['labelled_pixels']:.1f} %"
    if "one_value_only" in known:
        facts["constant maps"] = f"{known['one_value_only']:.1f} %"
    if "quantiles" in known:
        unit = " m" if kind.unit == "m" else ""
        facts |= {name: f"{_figure(known[name])}{unit}" for name in ("min", "mean", "max")}
        below = {f"{100 * float(at):g} % are below": value for at, value in known["quantiles"].items()}
        facts |= {name: f"{_figure(value)}{unit}" for name, value in below.items()}
    if "mean_vector" in known:
        facts["mean (right, down, forward)"] = ", ".join(f"{value:z.2f}" for value in known["mean_vector"])
        facts["away from the camera"] = f"{known['away']:.2f} %"
        facts["not unit length"] = f"{known['not_of_length_1']:.2f} %"
    return facts


def _figure(value: float) -> str:
    """0.01234 -> "0.0123", 999.6 -> "1,000"."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_BROKEN = {"not readable": "unreadable", "NaN or infinite": "not_finite"}


def _shown(result: Result, images: ImageSet, ranked: Ranked) -> list[Shown]:
    """The images with their labels drawn."""
    shown = []
    for value, position in ranked:
        image, label = opened(images, position), result.column[position]
        pictures: list[Picture] = [image]
        if not isinstance(image, str):
            drawn = thumbnail(result.task.draw(image, label))
            # Maps are drawn over the image, or in its place.
            pictures = [thumbnail(image), drawn] if isinstance(result.column.kind, MapLabel) else [drawn]
        shown.append(Shown(images.name_of(position), pictures, value, result.task.describe(label)))
    return shown


def _small(picture: Picture) -> Picture:
    return picture if isinstance(picture, str) else thumbnail(picture)


def _say_missing(contents: Audit) -> None:
    ranked = (shown for column in contents.columns for shown in (*column.most, *column.least))
    pictures = [(each.name, each.pictures[0]) for each in ranked]
    pictures += [(each.name, each.picture) for each in contents.duplicates]
    pictures += [(each.other, each.other_picture) for each in contents.duplicates]
    if missing := {name: picture for name, picture in pictures if isinstance(picture, str)}:
        name, reason = next(iter(missing.items()))
        say(f"not shown: {len(missing)} images that can no longer be read; the first is {name}, {reason}")


def _duplicate(images: ImageSet, duplicate: Duplicate) -> report.Duplicate:
    pair, others = duplicate.pair, duplicate.others
    how = "mirrored, " if pair.mirrored else ""
    return report.Duplicate(
        name=images.name_of(pair.position),
        other=others.name_of(pair.other),
        evaluation=others.name,
        how=f"{how}{pair.distance} of 256 bits differ",
        picture=_small(opened(images, pair.position)),
        other_picture=_small(opened(others, pair.other)),
    )
