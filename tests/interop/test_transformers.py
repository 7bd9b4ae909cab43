"""Models of the library transformers label photographs, and every label is what the library itself says about them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import hub_models
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import torch
from asked import answers, png
from photos import encoded, picture, write_files

from must_jax.config import LabelConfig, TeacherConfig
from must_jax.data.batching import TRAIN_MAP_STRIDE
from must_jax.data.decoding import decode_image
from must_jax.data.fitting import Placed
from must_jax.data.image_sets import ImageSet, open_images
from must_jax.engine.mesh import make_mesh
from must_jax.errors import UserError
from must_jax.labels.columns import LabelColumn, open_column
from must_jax.stages import label
from must_jax.teachers import loading
from must_jax.teachers.base import Images
from must_jax.teachers.foreign import Foreign

KINDS = {
    name: kind
    for kind, names in {
        "classification": hub_models.CLASSIFIERS,
        "detection": hub_models.DETECTORS,
        "segmentation": hub_models.SEGMENTERS,
        "depth": hub_models.DEPTHS,
    }.items()
    for name in names
}
SCORE = 0.2  # of boxes that are kept


def turned() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(60, 101, seed=3), exif=exif)


FILES = {
    "a wide.png": encoded(picture(92, 132), "PNG"),
    "b wide, too.png": encoded(picture(92, 132, seed=1), "PNG"),  # runs with the one before
    "c odd.png": encoded(picture(141, 67, seed=2), "PNG"),
    "d turned.jpg": turned(),
    "e grey.png": encoded(picture(80, 80, seed=4), "PNG", "L"),
    "f low.png": encoded(picture(3, 48, seed=5), "PNG"),  # three rows, which are no channels
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: hub_models.save(name, folder / name) for name in hub_models.MODELS}


def declared(name: str, folder: Path, **values: Any) -> dict[str, Any]:
    """The teacher in a config, with what its files do not say; its task is called like the model."""
    task: dict[str, Any] = {"kind": KINDS[name]}
    if name == "dpt":
        task["depth_kind"] = "inverse_relative"
    return {"model": f"transformers:{folder}", "tasks": {name: task | values}, "threads": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return open_images(f"folder:{write_files(tmp_path_factory.mktemp('photos'), FILES)}", "")


@pytest.fixture(scope="module")
def labelled(folders: dict[str, Path], photos: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By all teachers in one pass."""
    workdir = tmp_path_factory.mktemp("labelled")
    options: dict[str, dict[str, Any]] = {
        name: {"min_score": SCORE, "score_threshold": SCORE} for name in hub_models.DETECTORS
    }
    options |= {name: {"keep_confidence": True, "confidence_threshold": 0} for name in hub_models.SEGMENTERS}
    config = LabelConfig(
        images=photos.name,
        teachers=tuple(declared(name, folder) for name, folder in folders.items()),
        tasks={name: {"kind": KINDS[name]} | values for name, values in options.items()},
        batch_size=4,
        gallery_images=2,
        shard_images=8,
    )
    label.run(config, workdir)
    return workdir


def column_of(labelled: Path, photos: ImageSet, name: str) -> LabelColumn:
    return open_column(labelled / "columns" / f"{name}-{name}", photos)


def images_of(photos: ImageSet) -> Iterator[np.ndarray]:
    for i in range(len(photos)):
        yield decode_image(photos.record(i)["image"])


def cells_of(image: np.ndarray) -> tuple[int, int]:
    return round(image.shape[0] / TRAIN_MAP_STRIDE), round(image.shape[1] / TRAIN_MAP_STRIDE)


def is_absent(answer: dict[str, np.ndarray], image: np.ndarray) -> bool:
    """Processors that keep the aspect fail at an image of 3 rows: it is skipped, and those beside it are labelled."""
    assert answer["present"] == 1 or image.shape[0] == 3
    return bool(answer["present"] == 0)


@pytest.mark.parametrize("name", hub_models.CLASSIFIERS)
def test_probabilities_are_the_librarys(name: str, labelled: Path, photos: ImageSet):
    column = column_of(labelled, photos, name)
    assert column.manifest.classes == hub_models.CLASSES[:5]
    for i, image in enumerate(images_of(photos)):
        np.testing.assert_allclose(column[i]["probs"], hub_models.own_probs(name, image), atol=2e-3)  # stored as f16


@pytest.mark.parametrize("name", hub_models.DETECTORS)
def test_boxes_are_the_librarys(name: str, labelled: Path, photos: ImageSet):
    column, found = column_of(labelled, photos, name), 0
    assert column.manifest.classes == hub_models.CLASSES[:6]
    for i, image in enumerate(images_of(photos)):
        if is_absent(column[i], image):
            continue
        ours, own = column[i], hub_models.own_boxes(name, image, SCORE)
        count = int(ours["valid"].sum())
        hw = np.array(2 * image.shape[:2])
        own_yxyx = np.clip(own["boxes_xyxy"][:, [1, 0, 3, 2]] / hw, 0, 1)
        own_yxyx, classes, scores = (
            each[np.all(own_yxyx[:, 2:] > own_yxyx[:, :2], axis=1)]
            for each in (own_yxyx, own["classes"], own["scores"])
        )
        assert count == len(scores)
        np.testing.assert_allclose(ours["boxes_yxyx"][:count] * hw, own_yxyx * hw, atol=0.1)
        np.testing.assert_allclose(ours["scores"][:count], scores, atol=2e-3)
        assert ours["classes"][:count].tolist() == classes.tolist()
        found += count
    assert found > 10


@pytest.mark.parametrize("name", hub_models.SEGMENTERS)
def test_a_segmenters_map_is_the_librarys(name: str, labelled: Path, photos: ImageSet):
    """Logits are enlarged before the best class is taken; a null class, and labels that were reduced, move nothing."""
    column, several = column_of(labelled, photos, name), 0
    assert column.manifest.classes == hub_models.CLASSES
    for i, image in enumerate(images_of(photos)):
        own = hub_models.own_ids(name, image, cells_of(image))
        ids = column[i]["ids"]
        assert ids.shape == own.shape
        assert (ids != own).mean() < 0.002
        several += len(np.unique(own)) > 1
        assert column[i]["confidence"].mean() > 0 and column[i]["confidence"].max() <= 1
    assert several >= 2


@pytest.mark.parametrize("name", hub_models.DEPTHS)
def test_depth_is_the_librarys(name: str, labelled: Path, photos: ImageSet):
    """From predicted_depth, which Zoe pads; at the image's own size, of which the cells are means."""
    column = column_of(labelled, photos, name)
    metric = name in ("depth_anything_metric", "zoedepth", "glpn")
    assert column.manifest.unit == ("m" if metric else "inverse_relative")
    for i, image in enumerate(images_of(photos)):
        if is_absent(column[i], image):
            continue
        own = hub_models.own_depth(name, image, image.shape[:2])
        valid = own > 0 if metric else np.ones_like(own, bool)
        cells = cells_of(image)
        coarse, share = (
            cv2.resize(each, cells[::-1], interpolation=cv2.INTER_AREA) for each in (own, valid.astype(np.float32))
        )
        ours = column[i]
        assert ours["depth"].shape == cells and ours["valid"].mean() > 0.5
        assert np.all(ours["valid"][share < 0.5] == 0)
        known = (ours["valid"] > 0) & (share == 1)
        if image.shape[0] % TRAIN_MAP_STRIDE == image.shape[1] % TRAIN_MAP_STRIDE == 0:
            np.testing.assert_allclose(ours["depth"][known], coarse[known], rtol=2e-3, atol=1e-3 * np.ptp(own))
        else:
            assert np.corrcoef(ours["depth"][known], coarse[known])[0, 1] > 0.9


def ask(teacher: Foreign, image: np.ndarray) -> dict[str, np.ndarray]:
    """What it says about one image: boxes as shares of it, maps of it alone."""
    [task] = teacher.tasks
    return answers(teacher, [png(image)], task)[0]


def load(name: str, folder: Path, options: dict[str, Any] | None = None, **values: Any) -> Foreign:
    values = {"model": f"transformers:{folder}", "tasks": {KINDS.get(name, "depth"): {}}} | values
    config = TeacherConfig.model_validate(values)
    teacher = loading.load(config, {each: options or {} for each in config.tasks}, make_mesh())
    assert isinstance(teacher, Foreign)
    return teacher


def copied(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a model, with keys of its config.json changed."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    return to


def test_a_model_needs_no_declaration_where_its_files_say_it_all(folders: dict[str, Path]):
    teacher = load("segformer", folders["segformer"])
    assert list(teacher.tasks) == ["segmentation"] and teacher.tasks["segmentation"].classes == hub_models.CLASSES
    assert teacher.record.licence == "apache-2.0"
    assert load("zoedepth", folders["zoedepth"]).readings["depth"].declared.depth_kind == "metric_m"
    assert load("x", folders["depth_anything"]).readings["depth"].declared.depth_kind == "inverse_relative"
    assert load("x", folders["depth_anything_metric"]).readings["depth"].declared.depth_kind == "metric_m"


def test_an_output_that_is_the_background_is_no_class(folders: dict[str, Path], tmp_path: Path):
    """Named by the model's files as the others are, or left out of a list of ours."""
    image, names = picture(92, 132), hub_models.CLASSES
    (tmp_path / "names.txt").write_text("\n".join(names[1:]))
    usual = ask(load("segformer", folders["segformer"]), image)["ids"].astype(int)
    for more in ({}, {"classes": names[1:]}, {"classes": str(tmp_path / "names.txt")}):
        teacher = load("segformer", folders["segformer"], tasks={"segmentation": {"background": 0, **more}})
        assert teacher.tasks["segmentation"].classes == names[1:]
        np.testing.assert_array_equal(ask(teacher, image)["ids"], np.where(usual == 0, 255, usual - 1))
    with pytest.raises(UserError, match="lists 7, but the model has 6 classes besides the background"):
        load("segformer", folders["segformer"], tasks={"segmentation": {"background": 0, "classes": names}})
    with pytest.raises(UserError, match=r"tasks\.detection\.background"):
        load("detr", folders["detr"], tasks={"detection": {"background": 0}})


def test_a_large_image_is_reduced_before_its_processor_gets_it(folders: dict[str, Path]):
    image = picture(300, 2688)
    probs = ask(load("vit", folders["vit"]), image)["probs"]
    own = hub_models.own_probs("vit", cv2.resize(image, (1344, 150), interpolation=cv2.INTER_AREA))
    np.testing.assert_allclose(probs, own, atol=2e-3)


def test_colours_are_turned_where_that_is_declared(folders: dict[str, Path]):
    teacher = load("vit", folders["vit"], input={"colour": "bgr"})
    image = picture(92, 132)
    np.testing.assert_allclose(ask(teacher, image)["probs"], hub_models.own_probs("vit", image[..., ::-1]), atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "detr", "segformer", "dpt"])
def test_images_that_run_together_say_what_they_say_alone(name: str, folders: dict[str, Path]):
    images = [picture(92, 132, seed=i) for i in range(5)]
    pixels = np.stack(images)
    teachers = [load(name, folders[name], tasks=declared(name, folders[name])["tasks"], batch_size=n) for n in (0, 2)]
    whole = [Placed(0, 0, *images[0].shape[:2])] * 5
    large = np.zeros((5, teachers[0].input.height, teachers[0].input.width, 3), np.uint8)
    large[:, :92, :132] = pixels
    together, by_two = (teacher.begin(Images(large, whole))() for teacher in teachers)
    for field, values in together[name].items():
        np.testing.assert_allclose(values, by_two[name][field], rtol=1e-3, atol=1e-3, err_msg=field)
        one = teachers[0].alone(Images(large, whole), 3)[name][field]
        np.testing.assert_allclose(values[3], one, rtol=1e-3, atol=1e-3, err_msg=field)


def test_ids_that_coco_does_not_use_are_no_classes(folders: dict[str, Path], tmp_path: Path):
    """DETR calls them N/A, and has 91 ids: a class is told by its id, not by its position among those that are used."""
    names = {"0": "N/A", "1": "person", "2": "N/A", "3": "car", "4": "N/A", "5": "cat"}
    folder = copied(folders["yolos"], tmp_path / "m", id2label=names, label2id={n: int(i) for i, n in names.items()})
    teacher, image = load("yolos", folder, {"min_score": 0.0}, tasks={"detection": {}}), picture(92, 132)
    assert teacher.tasks["detection"].classes == ("person", "car", "cat")
    found, own = ask(teacher, image), hub_models.own_boxes("yolos", image, 0.0)
    used = own["classes"] % 2 == 1
    assert 0 < used.sum() < len(used)
    assert found["classes"].tolist() == (own["classes"][used] // 2).tolist()


@pytest.mark.parametrize("written", ["today", "by versions before 5", "by hand"])
def test_a_backbone_of_timm_is_not_looked_for_on_a_hub(written: str, tmp_path: Path):
    backbone = hub_models.hub.TimmBackboneConfig(backbone="resnet18", out_indices=[1, 2, 3, 4])
    saved = hub_models.save_detector(tmp_path / "saved", backbone)
    changes: dict[str, Any] = {"backbone_config": None, "backbone": "resnet18", "use_timm_backbone": True}
    if written == "by versions before 5":
        changes["backbone_kwargs"] = {"in_chans": 3, "out_indices": [1, 2, 3, 4]}
    image, today = picture(92, 132), load("detr", saved, {"min_score": 0.0})
    then = load("detr", copied(saved, tmp_path / "m", **changes if written != "today" else {}), {"min_score": 0.0})
    answer, again = ask(today, image), ask(then, image)
    assert len(answer["scores"]) == 20
    for field, values in answer.items():
        np.testing.assert_array_equal(values, again[field])


def test_a_config_that_needs_a_hub_is_refused(folders: dict[str, Path], tmp_path: Path):
    changes = {"backbone_config": None, "backbone": "some/resnet", "use_timm_backbone": False}
    with pytest.raises(UserError, match=r"config\.json.*some/resnet"):
        load("detr", copied(folders["detr"], tmp_path / "m", **changes))


def test_names_that_are_there_twice_are_told_apart(folders: dict[str, Path], tmp_path: Path):
    names = {str(i): name for i, name in enumerate(["crane", "dog", "crane", "cat", "lamp"])}
    teacher = load("vit", copied(folders["vit"], tmp_path / "m", id2label=names))
    assert teacher.tasks["classification"].classes == ("crane", "dog", "crane (2)", "cat", "lamp")


def test_made_up_names_are_none(folders: dict[str, Path], tmp_path: Path):
    names = {str(i): f"LABEL_{i}" for i in range(5)}
    folder = copied(folders["vit"], tmp_path / "m", id2label=names)
    with pytest.raises(UserError, match=r"tasks\.classification\.classes"):
        load("vit", folder)
    teacher = load("vit", folder, tasks={"classification": {"classes": ("a", "b", "c", "d", "e")}})
    assert teacher.tasks["classification"].classes == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("vit", {"tasks": {"classification": {"classes": ("a", "b")}}}, "lists 2, but the model has 5"),
        ("vit", {"tasks": {"classification": {"classes": ("Dog", "Cat", "sofa", "lamp", "door")}}}, "'Dog' at index 0"),
        ("vit", {"tasks": {"detection": {}}}, "the model does classification"),
        ("vit", {"tasks": {"classification": {}, "detection": {}}}, "classification, detection"),
        ("detr", {"tasks": {"detection": {"layout": "detr"}}}, r"tasks\.detection\.layout"),
        ("detr", {"tasks": {"detection": {"boxes": "xywh"}}}, r"tasks\.detection\.boxes"),
        ("detr", {"input": {"fit": "letterbox"}}, r"input\.fit"),
        ("vit", {"input": {"mean": (0.5, 0.5, 0.5)}}, r"input\.mean"),
        ("vit", {"input": {"size": (64,)}}, r"input\.size 64"),
        ("depth_anything", {"tasks": {"depth": {"depth_kind": "metric_m"}}}, "files say inverse_relative"),
        ("depth_anything_metric", {"tasks": {"depth": {"depth_kind": "relative"}}}, "files say metric_m"),
        ("dpt", {}, r"tasks\.depth\.depth_kind"),
    ],
)
def test_contradictions_and_gaps_are_named(name: str, values: dict[str, Any], named: str, folders: dict[str, Path]):
    with pytest.raises(UserError, match=named):
        load(name, folders[name], **values)


@pytest.mark.parametrize(
    "architecture", ["BertForMaskedLM", "Owlv2ForObjectDetection", "OneFormerForUniversalSegmentation", ""]
)
def test_what_is_no_task_here_is_refused_by_its_name(architecture: str, folders: dict[str, Path], tmp_path: Path):
    folder = copied(folders["vit"], tmp_path / "m", architectures=[architecture] if architecture else None)
    with pytest.raises(UserError, match=architecture or "no architecture"):
        load("vit", folder, tasks={"detection": {}})


def test_a_processor_whose_parts_depend_on_the_batch_is_refused(tmp_path: Path):
    for part in hub_models.eomt(split=True):
        part.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="patch_offsets"):
        load("eomt", tmp_path)


def test_pickles_are_never_loaded(folders: dict[str, Path], tmp_path: Path):
    beside, alone = copied(folders["vit"], tmp_path / "beside"), copied(folders["vit"], tmp_path / "alone")
    torch.save({"any": torch.zeros(1)}, beside / "pytorch_model.bin")
    assert load("vit", beside).record.licence
    (alone / "model.safetensors").unlink()
    torch.save({"any": torch.zeros(1)}, alone / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load("vit", alone)


def test_the_code_of_a_folder_never_runs(folders: dict[str, Path], tmp_path: Path):
    own_code = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    folder = copied(folders["vit"], tmp_path / "m", model_type="unheard_of", auto_map=own_code)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match=r"config\.json"):
        load("vit", folder)
    assert not (tmp_path / "ran").exists()


def test_a_head_without_weights_is_not_drawn_at_random(folders: dict[str, Path], tmp_path: Path):
    folder = copied(folders["vit"], tmp_path / "m")
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith("classifier")}
    safetensors.numpy.save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="classifier"):
        load("vit", folder)


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_file_that_is_gone_or_cut_off_is_named(file: str, damage: str, folders: dict[str, Path], tmp_path: Path):
    folder = copied(folders["vit"], tmp_path / "m")
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if damage == "cut off":
        (folder / file).write_bytes(content[:20])
    with pytest.raises(UserError, match=file if file.endswith("json") else str(folder)):
        load("vit", folder)


def test_the_digest_is_of_weights_and_configs(folders: dict[str, Path], tmp_path: Path):
    digests = {load("vit", folders["vit"]).record.digest}
    same = copied(folders["vit"], tmp_path / "same", **json.loads((folders["vit"] / "config.json").read_text()))
    shutil.copy(folders["vit"] / "config.json", same)
    assert load("vit", same).record.digest in digests
    processor = copied(folders["vit"], tmp_path / "processor") / "preprocessor_config.json"
    processor.write_text(json.dumps(json.loads(processor.read_text()) | {"image_mean": [0.4, 0.4, 0.4]}))
    digests.add(load("vit", processor.parent).record.digest)
    weights = copied(folders["vit"], tmp_path / "weights") / "model.safetensors"
    values = safetensors.numpy.load_file(weights)
    safetensors.numpy.save_file({key: 2 * value for key, value in values.items()}, weights, {"format": "pt"})
    digests.add(load("vit", weights.parent).record.digest)
    assert len(digests) == 3
