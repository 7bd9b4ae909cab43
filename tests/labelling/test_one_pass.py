"""The pass itself: what is read, compiled and written, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from made_teacher import HEADLINES, make_teacher

from must_jax import trained
from must_jax.config import InputConfig, LabelConfig
from must_jax.data import fitting
from must_jax.data.fitting import Input, Placed
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError
from must_jax.labelling import asking, one_pass
from must_jax.labelling.teachers import begin_columns
from must_jax.teachers.base import Images
from must_jax.teachers.own import owned

SIZES = [(64, 64), (40, 90), (90, 40), (3, 200), (200, 3), (7, 7), (128, 127), (300, 200), (64, 65), (1, 1)]
COMPILED = "/jax/core/compile/backend_compile_duration"  # also of programs that come from the cache on disk


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, trained.Trained]:
    """Of two resolutions."""
    folder, tasks = tmp_path_factory.mktemp("teachers"), tuple(key.split("/")[0] for key in HEADLINES)
    made = make_teacher(folder / "everything", tasks, 64, HEADLINES), make_teacher(folder / "small", ("depth",), 32, {})
    return {path.name: trained.load(path, make_mesh(2)) for path in made}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Ten sizes and aspects, twice; and one more, so that batches of four end with a partial one."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i, size in enumerate([*SIZES, *SIZES, (50, 60)]):
        cv2.imwrite(str(folder / f"{i:02d}.{'jpg' if i % 2 else 'png'}"), rng.integers(0, 256, (*size, 3), np.uint8))
    return open_images(f"folder:{folder}", "")


def begun(folder: Path, models: dict[str, trained.Trained], images: ImageSet) -> list[one_pass.Writing]:
    config = LabelConfig(images=images.name, teachers=tuple(models), batch_size=4, shard_images=9)
    return begin_columns(folder, owned(models), images, config)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """Grows with every compilation, in whatever thread."""
    found: list[str] = []

    def listen(event: str, _: float, **__: object) -> None:
        found.extend([event] if event == COMPILED else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_images_of_any_size_and_partial_batches_compile_nothing_after_the_warm_up(
    models: dict[str, trained.Trained], images: ImageSet, tmp_path: Path, compiled: list[str]
) -> None:
    jax.clear_caches()
    teachers = begun(tmp_path, models, images)
    one_pass.warm_up(teachers, batch_size=4)
    assert len(compiled) >= 2  # a program a teacher
    compiled.clear()
    assert one_pass.label(images, teachers, batch_size=4).images == 21
    assert not compiled
    models["small"].dispatch(np.zeros((6, 32, 32, 3), np.uint8))  # of another shape
    assert compiled


def test_each_image_is_read_and_decoded_once_for_all_teachers(
    models: dict[str, trained.Trained], images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, decoded = Counter(), []
    record, decode = images.record, fitting.decode_reduced
    monkeypatch.setattr(images, "record", lambda i: read.update([i]) or record(i))
    monkeypatch.setattr(fitting, "decode_reduced", lambda data, longest: decoded.append(data) or decode(data, longest))
    one_pass.label(images, begun(tmp_path, models, images), batch_size=4)
    assert read == Counter(range(21))
    assert Counter(decoded) == Counter(record(i)["image"] for i in range(21))


def test_threads_workers_and_what_is_begun_ahead_change_no_byte(
    models: dict[str, trained.Trained], images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images cannot be read, and a teacher fails on the second one of each batch."""

    def read(index: int) -> dict:
        return images.record(index) | ({"image": b"gone"} if index in (2, 20) else {})

    def failing(model: trained.Trained, batch: jax.Array) -> dict:
        predictions = dispatch(model, batch)
        if model.image_size == 32:
            predictions["depth"]["depth"] = predictions["depth"]["depth"].at[1].set(np.nan)
        return predictions

    dispatch = trained.Trained.dispatch
    monkeypatch.setattr(trained.Trained, "dispatch", failing)
    some_bad = ImageSet(images.name, len(images), read, images.digest)
    written = []
    for threads, prefetch_bytes, workers in ((1, 1, 0), (3, 2**30, 0), (9, 2**30, 0), (3, 2**30, 2)):
        for module in (asking, one_pass):
            monkeypatch.setattr(module, "cores", lambda threads=threads: threads)
        folder, config = tmp_path / f"{threads}-{workers}", InputConfig(workers=workers, prefetch_bytes=prefetch_bytes)
        one_pass.label(some_bad, begun(folder, models, images), 4, config)
        written.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*array_record*") if p.is_file()})
    assert len(written[0]) == 6 * 2 * 3  # columns, a shard with its record, shards
    assert written[0] == written[1] == written[2] == written[3]
    absent = b"".join(content for path, content in written[0].items() if path.suffix == ".json")
    assert absent.count(b"this format is not known") == 2 * 6
    assert absent.count(b"non-finite") == 5  # batches with a second image


def test_what_is_read_and_predicted_ahead_has_its_bytes(
    models: dict[str, trained.Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch whatever it takes, and no more than keep the threads busy."""
    rows, teachers = 8, owned(models)
    images = rows * (64**2 + 32**2) * 3
    predictions = sum(each.nbytes for m in teachers for each in jax.tree.leaves(m.begin(Images(m.blank(7), []))()))
    monkeypatch.setattr(asking, "cores", lambda: 40)
    a_batch = images + 2 * predictions
    found = [asking.batches_ahead(teachers, 7, size) for size in (1, 3.1 * a_batch, 3.9 * a_batch, 2**40)]
    assert found == [1, 3, 3, 10]
    monkeypatch.setattr(asking, "cores", lambda: 1)
    assert asking.batches_ahead(teachers, 7, 2**40) == asking.AHEAD


def test_the_share_of_bad_images_is_of_all_that_are_covered(
    models: dict[str, trained.Trained], images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of 21 images, although only one of three shards is to be written again."""
    small = {"small": models["small"]}
    one_pass.label(images, begun(tmp_path, small, images), batch_size=4)
    (column,) = begun(tmp_path, small, images)[0].columns
    (column.writer.folder / column.writer.manifest.shard_file(0)).unlink()
    monkeypatch.setattr(one_pass, "MAX_BAD", 0)
    failures = one_pass.Failures(images.name, [column], [0])
    failures.add(0, [one_pass.Failure("a", ""), one_pass.Failure("b", "")])
    with pytest.raises(UserError, match=r"3 images of .* cannot be labelled"):
        failures.add(0, [one_pass.Failure("c", "")])


def test_inputs_are_the_letterboxed_images_and_nothing_else(
    models: dict[str, trained.Trained], images: ImageSet
) -> None:
    chunks = [range(3), range(3, 5)]
    with asking.readers(images, chunks, owned(models), batch_size=3) as begin:
        batches = list(asking.read(begin, chunks))
    assert [len(batch.examples) for batch in batches] == [3, 2]
    for batch in batches:
        assert {kind.height: x.shape for kind, x in batch.inputs.items()} == {64: (4, 64, 64, 3), 32: (4, 32, 32, 3)}
        assert all(not x[len(batch.examples) :].any() for x in batch.inputs.values())
    placed = batches[0].examples[1].placed
    assert placed == {Input(64, 64): Placed(0, 0, 28, 64), Input(32, 32): Placed(0, 0, 14, 32)}
