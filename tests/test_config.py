"""Configs: what is accepted, and the sentence for everything that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import pydantic
import pytest

from must_jax import config
from must_jax.config import (
    CompileConfig,
    DescribeConfig,
    EvaluateConfig,
    LabelConfig,
    ModelConfig,
    PipelineConfig,
    PrepareConfig,
    TrainConfig,
    base,
    digest,
)
from must_jax.errors import UserError
from must_jax.labels.formats import FORMATS, build_format
from must_jax.parsing import check_other_data, override, parse
from must_jax.tasks import TASKS, build_task

SOURCE = {"images": "scenes/teacher_depth:train"}


def train(**values: Any) -> dict[str, Any]:
    return {"stage": "train", "train": (SOURCE,), "validation": (SOURCE,), "tasks": {"depth": {}}, **values}


def label(**values: Any) -> dict[str, Any]:
    return {"stage": "label", "images": "folder:x", "teachers": ("a",), **values}


def evaluate(**values: Any) -> dict[str, Any]:
    downstream = {"depth": {"task": "depth", "train": SOURCE, "validation": SOURCE, "test": SOURCE}}
    transfers = ({"mode": "frozen", "steps": 10, "learning_rates": (0.1,)},)
    return {"stage": "evaluate", "inits": {"a": ""}, "downstream": downstream, "transfers": transfers, **values}


def pipeline(**values: Any) -> dict[str, Any]:
    return {"stage": "pipeline", "stages": {"teacher": train(**values)}}


def changed(values: dict[str, Any], *overrides: str) -> Any:
    for item in overrides:
        values = override(values, *item.split("=", 1))
    return parse(values)


def test_stages_become_their_own_types():
    assert isinstance(parse(train()), TrainConfig)
    assert isinstance(parse({"stage": "prepare", "name": "photos", "images": "folder:x"}), PrepareConfig)
    assert isinstance(parse(label()), LabelConfig)
    assert isinstance(parse(evaluate()), EvaluateConfig)
    assert isinstance(parse(pipeline()), PipelineConfig)


@pytest.mark.parametrize("text", ["384,640", "[384, 640]", "'384, 640'"])
def test_height_and_width_of_an_input(text: str):
    config = changed(train(), f"image_size={text}")
    assert (config.image_size, config.input_hw) == ((384, 640), (384, 640))
    assert parse(json.loads(config.model_dump_json())) == config


def test_a_square_is_the_same_however_it_is_written():
    one, two = (changed(evaluate(), f"image_size={text}") for text in ("96", "96,96"))
    assert one == two and one.model_dump_json() == two.model_dump_json() and one.input_hw == (96, 96)


def test_a_config_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        parse(train()).steps = 3


@pytest.mark.parametrize(
    ("values", "text", "sentence"),
    [
        (
            train(),
            "optimizer.lerning_rate=1",
            "config.optimizer.lerning_rate is unknown; did you mean 'learning_rate'?",
        ),
        (train(), "train.0.image=x", "config.train.0.image is unknown; did you mean 'images'?"),
        (train(), "optimiser.name=adamw", "config.optimiser is unknown; did you mean 'optimizer'?"),
        (label(), "processes=16", "config.processes is unknown; it is now input.workers"),
        (train(), "batch_size=many", "config.batch_size is 'many', but should be a valid integer"),
        (train(), "batch_size=0", "config.batch_size is 0, but should be greater than 0"),
        (train(), "model.width=None", "config.model.width is none, but should be a valid number"),
        (train(), "optimizer.name=sdg", "config.optimizer.name is 'sdg', but should be 'sgd', 'adamw' or 'lars'"),
        (train(), "image_size=50", "config.image_size is 50, but should be a multiple of 32"),
        (train(), "image_size=100,64", "config.image_size.0 is 100, but should be a multiple of 32"),
        (evaluate(), "image_size=[64]", "config.image_size: [64] should be the side of a square or height and width"),
        (train(), "image_size=64,64,64", "config.image_size: [64, 64, 64] should be the side of a square or height"),
        (
            train(),
            "image_size=384x640",
            "config.image_size: '384x640' should be the side of a square or height and width",
        ),
        (
            train(),
            "train.0.min_confidence.detection=70",
            "config.train.0.min_confidence.detection is 70, but should be",
        ),
        (train(), "train=()", "config.train is empty, but needs at least one entry"),
        (train(), "tasks.depth=3", "config.tasks.depth is 3, but should be a mapping"),
        (train(), "minimum=50", "config.minimum is 50, but should be a mapping"),
        (train(), "images=none", "config.images is unknown"),
        (train(), "train.0.images=none", "config.train.0.images is none, but should be a valid string"),
        (train(), "train=none", "config.train is empty, but needs at least one entry"),
        (
            train(),
            "optimizer.warmup_steps=1000",
            "config: optimizer.warmup_steps 1000 must be below steps 1000; set config.o",
        ),
        (train(), "augment.scale_min=2", "config.augment: scale_min 2.0 must not be above scale_max 1.0"),
        (
            train(),
            "minimum.deph/delta1=50",
            "config: minimum names 'deph/delta1', which is not a metric of a task here; did you ",
        ),
        (train(), "validation=None,", "config.validation.0 is none, but should be a mapping"),
        (
            train(),
            "validation.images=x",
            "--config.validation.images: config.validation is a list; name an entry, as in --",
        ),
        (train(), "validation.0.name=a b", "config: validation.0.name 'a b' may have letters, digits"),
        (train(), "validation.0.tasks=dept", "config: validation.0.tasks names 'dept', which is not a task here; did "),
        (
            train(),
            "best=deph/delta1",
            "config: best names 'deph/delta1', which is not a metric of a task here; did you ",
        ),
        (
            train(validation=()),
            "best=depth/delta1",
            "config: best needs images to be measured on; set config.validation",
        ),
        (train(), "patience=3", "config: patience needs a metric to watch; set config.best"),
        (
            train(),
            "init_parts=backbone,head",
            "config: init_parts names 'head', which is not a part of a network; did ",
        ),
        (train(), "stage=trian", "config.stage is trian, which is not a stage; did you mean 'train'?"),
        (
            train(validation=None),
            "minimum.depth/delta1=50",
            "config: minimum needs images to be measured on; set config",
        ),
        ({"stage": "label", "images": "folder:x"}, "take=1", "config.teachers is missing; set it in the config file"),
        (evaluate(), "inits={}", "config.inits is empty, but needs at least one entry"),
        (evaluate(), "transfers.0.inits=a,b", "config: a transfer starts from 'b', which is not in inits"),
        (evaluate(), "transfers.0.learning_rates=fast", "config.transfers.0.learning_rates.0 is 'fast', but should be"),
        (train(), "columns.dorp=depth", "config.columns.dorp is unknown; did you mean 'drop'?"),
        (train(), "columns=depth", "config.columns is 'depth', but should be a mapping"),
        (
            label(),
            "worker=1/0",
            "config: worker '1/0' is invalid; give its number from 0 and the number of workers, like 0/2",
        ),
        (label(), "chips=-1", "config.chips is -1, but should be greater than or equal to 0"),
        (
            {"stage": "pipeline", "stages": {"labels": label()}},
            "stages.labels.dry_run=true",
            "config: stages.labels.dry_run makes no labels for later stages; use it with configs/label.py",
        ),
        (
            pipeline(),
            "stages.teacher.optimizer.lerning_rate=1",
            "config.stages.teacher.optimizer.lerning_rate is unkno",
        ),
        (
            pipeline(),
            "stages.teacher.stage=trian",
            "config.stages.teacher.stage is trian, which is not a stage of a pipe",
        ),
        (
            pipeline(),
            "stages.student.steps=1",
            "config.stages.student.stage is None, which is not a stage of a pipeline; known: audit, eval",
        ),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(values: dict[str, Any], text: str, sentence: str):
    with pytest.raises(UserError) as raised:
        changed(values, text)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", ["train.2.take", "steps.x"])
def test_an_override_through_nothing_is_answered(path: str):
    with pytest.raises(UserError, match=f"--config.{path} leads through"):
        changed(train(steps=10), f"{path}=1")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("seed=3", lambda c: c.seed == 3),
        ("optimizer.learning_rate=3e-2", lambda c: c.optimizer.learning_rate == 0.03),
        ("augment.flip=false", lambda c: c.augment.flip is False),
        ("columns.drop=", lambda c: c.columns.drop == ()),
        ("train.0.labels=runs/a,runs/b", lambda c: c.train[0].labels == ("runs/a", "runs/b")),
        ("train.0.labels=('runs/a',)", lambda c: c.train[0].labels == ("runs/a",)),
        ("train.0.images=folder:a=b,c", lambda c: c.train[0].images == "folder:a=b,c"),
        ("train.0.min_confidence.detection=0.7", lambda c: c.train[0].min_confidence == {"detection": 0.7}),
        (
            "train.0.min_confidence.detection.cat=0.7",
            lambda c: c.train[0].min_confidence == {"detection": {"cat": 0.7}},
        ),
        ("init=007", lambda c: c.init == "007"),
        ("init=7", lambda c: c.init == "7"),
        ("validation=None", lambda c: c.validation == ()),
        ("validation=()", lambda c: c.validation == ()),
        ("validation.0.images=x:val", lambda c: [each.images for each in c.validation] == ["x:val"]),
        ("validation.1.images=x:val", lambda c: [each.images for each in c.validation] == [SOURCE["images"], "x:val"]),
        ("validation={'images': 'x:val'}", lambda c: [each.images for each in c.validation] == ["x:val"]),
        ("validation.0.tasks=depth", lambda c: c.validation[0].tasks == ("depth",)),
        ("tasks.detection.score_threshold=0.3", lambda c: c.tasks["detection"] == {"score_threshold": 0.3}),
        ("minimum.depth/delta1=50", lambda c: c.minimum == {"depth/delta1": 50.0}),
        ("columns.drop=depth", lambda c: (c.columns.drop, c.columns.keep) == (("depth",), ())),
        ("columns.keep=depth,teacher_a", lambda c: c.columns.keep == ("depth", "teacher_a")),
    ],
)
def test_an_override_reaches_every_key_of_the_schema(text: str, read: Any):
    assert read(changed(train(), text))


def test_an_override_adds_a_list_that_the_config_file_does_not_have():
    values = {key: value for key, value in train().items() if key != "validation"}
    config = changed(values, "validation.0.images=street:val", "validation.1.images=rooms:val", "validation.1.name=in")
    assert [(each.images, each.name) for each in config.validation] == [("street:val", ""), ("rooms:val", "in")]


EMPTY = ("none", "None", "null", "", "()", "[]", "{}", '""')


@pytest.mark.parametrize("text", EMPTY)
def test_none_empties_any_key_that_can_be_empty(text: str):
    """In every spelling: texts, lists, mappings, optional values, and models, which then have their defaults."""
    full = train(init="a", columns={"drop": ["depth"]}, minimum={"depth/delta1": 1}, augment={"flip": False})
    keys = ("init", "columns.drop", "minimum", "train.0.labels", "augment")
    read = changed(full, *(f"{key}={text}" for key in keys))
    assert (read.init, read.columns.drop, read.minimum, read.train[0].labels) == ("", (), {}, ())
    assert read.augment.flip
    task = build_task("depth", (), {"weight": literal(text)})
    assert task.weight is None
    assert build_format("coco", {"classes": literal(text)}).classes == ()


def literal(text: str) -> Any:
    """As `override` reads it."""
    return override({}, "key", text)["key"]


@pytest.mark.parametrize("text", ["a,b", "a, b", "[a, b]", "(a,b)", '["a", "b"]', "('a', 'b')"])
def test_lists_in_every_spelling(text: str):
    assert [teacher.model for teacher in changed(label(), f"teachers={text}").teachers] == ["a", "b"]
    assert build_format("coco", {"classes": literal(text)}).classes == ("a", "b")


@pytest.mark.parametrize("text", ['{"a": "", "b": "runs/b"}', "{'a': None, 'b': 'runs/b'}"])
def test_a_mapping_replaces_all_of_it_and_a_path_one_entry(text: str):
    assert changed(evaluate(), f"inits={text}").inits == {"a": "", "b": "runs/b"}
    assert changed(evaluate(), "inits.b=runs/b").inits == {"a": "", "b": "runs/b"}
    json = '{"format": "coco", "path": "x", "options": {"clip": true, "classes": null}}'
    prepare = {"stage": "prepare", "name": "photos", "images": "folder:x"}
    assert changed(prepare, f"labels.detection={json}").labels["detection"].options == {"clip": True, "classes": None}


def test_one_more_entry_of_a_list():
    config = changed(train(), "train.1.images=folder:x", "train.1.take=3")
    assert [(source.images, source.take) for source in config.train] == [(SOURCE["images"], 0), ("folder:x", 3)]
    without = train()
    del without["train"]
    assert changed(without, "train.0.images=folder:x").train[0].images == "folder:x"


def test_an_override_leaves_values_alone_that_are_the_same_object():
    shared = {"flip": True}
    values = override({"a": shared, "b": shared}, "a.flip", "False")
    assert values == {"a": {"flip": False}, "b": {"flip": True}}


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        (("train.0.images=scenes/teacher_depth:train[:9]",), ()),  # a part of the same set
        (("train.0.take=5", "train.0.labels=runs/a"), ()),
        (("train.0.images=folder:a",), ("validation", "minimum")),
        (("train={'images': 'folder:a'},",), ("validation", "minimum")),
        (("train.1.images=folder:a",), ()),  # the images of the validation are still trained on
        (("train.0.images=folder:a", "validation.0.images=folder:b"), ("minimum",)),
        (("train.0.images=folder:a", "validation=none", "minimum=none"), ()),
        (("train.0.images=folder:a", "minimum.depth/delta1=3"), ("validation",)),
    ],
)
def test_other_data_to_train_on_needs_other_data_to_measure_on(overrides: tuple[str, ...], left: tuple[str, ...]):
    file = train(minimum={"depth/delta1": 50.0})
    for prefix, before in (("", file), ("stages.teacher.", {"stage": "pipeline", "stages": {"teacher": file}})):
        values, paths = before, []
        for item in overrides:
            path, text = f"{prefix}{item}".split("=", 1)
            values, paths = override(values, path, text), [*paths, path]
        if not left:
            check_other_data(before, values, paths)
            continue
        with pytest.raises(UserError) as raised:
            check_other_data(before, values, paths)
        for key in ("validation", "minimum"):
            assert (f"--config.{prefix}{key}=none" in str(raised.value)) == (key in left)


@pytest.mark.parametrize("prefix", ["", "stages.teacher."])
def test_a_single_source_of_validation_is_changed_as_a_list_of_one(prefix: str):
    """As the message about other data says."""
    file = train(validation=SOURCE, minimum={})
    before = {"stage": "pipeline", "stages": {"teacher": file}} if prefix else file
    other = override(before, f"{prefix}train.0.images", "folder:a")
    with pytest.raises(UserError) as raised:
        check_other_data(before, other, [f"{prefix}train.0.images"])
    path = re.search(r"--config\.(\S+)=\.\.\.", str(raised.value))[1]  # type: ignore[index]
    changed = override(other, path, "folder:b")
    check_other_data(before, changed, [f"{prefix}train.0.images", path])
    read = parse(changed)
    read = read.stages["teacher"] if isinstance(read, PipelineConfig) else read
    assert isinstance(read, TrainConfig)
    assert [each.images for each in read.validation] == ["folder:b"]


def test_learning_rates_are_a_comma_list():
    config = changed(evaluate(), "transfers.0.learning_rates=0.1,0.2", "transfers.0.seeds=4")
    assert config.transfers[0].learning_rates == (0.1, 0.2)
    assert config.transfers[0].seeds == (4,)


def test_digest_changes_with_any_value_and_only_then():
    one, same, other = parse(train()), parse(train(seed=0)), parse(train(optimizer={"momentum": 0.8}))
    assert digest(one) == digest(same) != digest(other)
    assert len(digest(one)) == 16


@pytest.mark.parametrize("path", ["train.-1.take", "train.2.take"])
def test_an_override_past_a_list(path: str) -> None:
    with pytest.raises(UserError, match="past the end of a list"):
        override({"train": [{"images": "scenes/a:train"}]}, path, "5")


def test_infinite_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"config.optimizer.learning_rate is inf, but should be a finite number"):
        parse(train(optimizer={"learning_rate": float("inf")}))


@pytest.mark.parametrize(
    ("values", "text", "sentence"),
    [
        (train(), f"seed={2**64}", f"config.seed is {2**64}, but should be less than {2**32}"),
        (
            train(),
            "steps=10_000_000_000",
            "config.steps is 10000000000, but should be less than or equal to 10000",
        ),
        (train(), "image_size=3_200_000", "config.image_size is 3200000, but should be less than or equal to 16384"),
        (train(), "model.width=1e300", "config.model.width is 1e+300, but should be less than or equal to 16"),
        (train(), "batch_size=10_000_000_000", "config.batch_size is 10000000000, but should be less than or equal to"),
        (train(), "train.0.take=1e30", "config.train.0.take is 1e+30, but should be"),
        (train(), "steps=True", "config.steps is True, but should be a number"),
        (train(), "optimizer.learning_rate=True", "config.optimizer.learning_rate is True, but should be a number"),
        (train(), "train.0.min_confidence.depth=True", "config.train.0.min_confidence.depth is True, but should be a"),
        (
            train(),
            "train.0.min_confidence.detection.cat=7",
            "config.train.0.min_confidence.detection.cat is 7, but should be less than or equal to 1",
        ),
        (evaluate(), "transfers.0.seeds=True", "config.transfers.0.seeds.0 is True, but should be a number"),
        (label(), "shard_images=10**9", "config.shard_images is '10**9', but should be a valid integer"),
        (label(), "shard_images=1_000_000_000", "config.shard_images is 1000000000, but should be less than or equal"),
        (label(), f"teachers={['a'] * 20_000}", "config.teachers is ["),
        (train(), "init='a\\0b'", "config.init contains a NUL character"),
        (train(), "tasks.depth.kind='a\\0b'", "config.tasks.depth.kind contains a NUL character"),
        (train(), "init=a\udcff", "config.init contains bytes that are not UTF-8"),
        (train(), f"init={'a' * 5000}", "config.init has 5,000 characters; at most 4,096 are allowed"),
        (train(), "tasks.depth.weight=1e999", "config.tasks.depth.weight is inf, but should be a finite number"),
        (train(), "tasks.depth.weight={1, 2}", "config.tasks.depth.weight is of type set; use numbers, strings, lists"),
        (train(), f"seed={'[' * 5000}", "config.seed has 5,000 characters"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_limit(values: dict[str, Any], text: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        changed(values, text)
    assert str(raised.value).startswith(sentence)
    assert len(str(raised.value)) < 300


def _numbers(kind: type[pydantic.BaseModel]) -> Iterator[tuple[str, pydantic.fields.FieldInfo]]:
    for name, field in kind.model_fields.items():
        if field.annotation in (int, float):
            yield f"{kind.__name__}.{name}", field


def test_every_number_of_a_config_has_limits_and_is_not_true() -> None:
    kinds = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, base.Config)]
    numbers = dict(pair for kind in kinds for pair in _numbers(kind))
    assert len(numbers) > 40
    for name, field in numbers.items():
        with pytest.raises(pydantic.ValidationError):
            check = pydantic.TypeAdapter(Annotated[field.annotation, *field.metadata])
            check.validate_python(1e40 if field.annotation is float else 10**18)
            pytest.fail(name)
        with pytest.raises(pydantic.ValidationError):
            check.validate_python(True)
            pytest.fail(name)


def test_all_choices_are_named() -> None:
    with pytest.raises(UserError, match=r"is 'half', but should be 'float32' or 'bfloat16'"):
        parse(train(model={"dtype": "half"}))


def test_of_two_networks_only_what_is_asked_about_differs() -> None:
    ours, theirs = ModelConfig(width=0.5, drop_path=0.1), ModelConfig(mean=(0.5, 0.5, 0.5), weights="w.npz")
    assert ours.differing(theirs) == {"width": 1.0}
    assert ours.differing(theirs, ()) == {} == ours.differing(theirs, ("backbone",))  # heads alone need neither
    assert theirs.differing(ours, ("mean", "std")) == {"mean": ()}


def test_a_backbone_that_is_not_known_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no backbone 'resnet_50'; did you mean 'resnet50'.*must_jax\.backbones"):
        parse(train(model={"backbone": "resnet_50"}))


def test_how_to_set_an_entry_of_a_list() -> None:
    with pytest.raises(UserError, match=r"should be a list: a,b or \[a, b\]; --config\.train\.0="):
        parse(train(train={"images": "scenes/teacher_depth:train"}))


def test_the_updates_to_profile() -> None:
    assert list(parse(train(profile="3:5")).profiled) == [3, 4, 5]
    assert list(parse(train(profile="7:7")).profiled) == [7]
    assert not parse(train()).profiled


@pytest.mark.parametrize("profile", ["100", "5:3", "0:4", "90:101", "a:b", "-1:4", "1:2:3", ":"])
def test_a_range_to_profile_that_is_none(profile: str) -> None:
    with pytest.raises(UserError, match=f"profile {profile} is not a range of updates; .* from 1 to steps 100"):
        parse(train(steps=100, profile=profile))


def test_of_a_run_to_describe_no_key_is_read() -> None:
    assert parse(label(stage="describe", what="ever")) == DescribeConfig()


def test_compile_takes_the_config_of_another_stage():
    target = {"stage": "compile", "compile": {"topology": "v5e:4x8", "programs": "train,label"}}
    for values in (train(), label(), evaluate()):
        parsed = parse(values | target)
        assert isinstance(parsed, CompileConfig)
        assert parsed.of == parse(values)
        assert parsed.compile.programs == ("train", "label")


def test_every_key_says_what_it_is_for() -> None:
    kinds = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, base.Config)]
    models: list[type[pydantic.BaseModel]] = [*kinds, *TASKS.values(), *FORMATS.values()]
    fields = {f"{m.__name__}.{key}": field for m in models for key, field in m.model_fields.items() if key != "stage"}
    assert len(fields) > 150
    assert [name for name, field in fields.items() if not field.description] == []


def test_none_empties_keys_of_a_report_and_options_of_a_task() -> None:
    assert parse({"stage": "report", "runs": None}).runs == ()
    assert parse(train(tasks={"depth": None})).tasks == {"depth": {}}


def test_brackets_that_are_no_pair_belong_to_the_names() -> None:
    assert base.listed("(old) photos,x (new)") == ["(old) photos", "x (new)"]
    assert base.listed("(a, b)") == ["a", "b"]
