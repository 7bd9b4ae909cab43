"""Which teachers may label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from made_teacher import make_teacher

from must_jax.config import LabelConfig
from must_jax.errors import UserError
from must_jax.labelling import teachers
from must_jax.teachers.base import Teacher

WEAK, GOOD = {"depth/delta1": 30.0, "depth/chance": 27.3}, {"depth/delta1": 47.3, "depth/chance": 27.3}


def names(loaded: Sequence[Teacher]) -> list[str]:
    return [teacher.name for teacher in loaded]


def config(*folders: Path, **options: object) -> LabelConfig:
    return LabelConfig(images="folder:photos", teachers=[str(folder) for folder in folders], devices=1, **options)


def test_what_near_chance_is_depends_on_the_truth(tmp_path: Path) -> None:
    """A depth of 47.3 where the best constant gets 27.3 has learnt something; where it gets 46 it has not."""
    good = make_teacher(tmp_path / "good", ("depth",), 32, GOOD)
    assert names(teachers.load(config(good))) == ["good"]
    same = make_teacher(tmp_path / "same", ("depth",), 32, {"depth/delta1": 47.3, "depth/chance": 46.0})
    with pytest.raises(UserError, match=r"delta1 is 47\.3, and up to 51\.0 is near chance \(the best constant .* 46"):
        teachers.load(config(same))


def test_all_refusals_come_at_once_and_can_be_overridden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was not validated is refused as well."""
    weak = make_teacher(tmp_path / "weak", ("depth",), 32, WEAK)
    unseen = make_teacher(tmp_path / "unseen", ("normals",), 32, {})
    good = make_teacher(tmp_path / "good", ("depth",), 32, GOOD)
    named = f"^{weak} has hardly learnt depth: .*; {unseen} was not validated on normals.*accept_failed=depth,normals$"
    with pytest.raises(UserError, match=named):
        teachers.load(config(weak, good, unseen))
    with pytest.raises(UserError, match=f"^{unseen} .*accept_failed=normals$"):
        teachers.load(config(weak, good, unseen, accept_failed="depth"))
    capsys.readouterr()
    assert names(teachers.load(config(weak, good, unseen, accept_failed="depth,normals"))) == ["weak", "good", "unseen"]
    said = capsys.readouterr().err
    assert said.count("(accepted by config.accept_failed)") == 2
    with pytest.raises(UserError, match="accept_failed names 'dept', which no teacher knows; did you mean 'depth'"):
        teachers.load(config(good, accept_failed="dept"))


def test_the_advice_fits_what_is_wrong(tmp_path: Path) -> None:
    for name, metrics, advice in (
        ("weak", {"classification/top1": 30.0, "classification/chance": 30.0}, "train longer or on more images"),
        ("unseen", {}, "train with config.validation"),
        (
            "alike",
            {"classification/top1": 100.0, "classification/chance": 100.0},
            "validate classification on images of more than one class",
        ),
    ):
        folder = make_teacher(tmp_path / name, ("classification",), 32, metrics)
        with pytest.raises(UserError, match=rf"; {advice}, or label with them anyway with config\.accept_failed="):
            teachers.load(config(folder))


def test_of_a_teacher_from_before_the_constant_is_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = make_teacher(tmp_path / "old", ("depth",), 32, {"depth/delta1": 47.3})
    assert names(teachers.load(config(old))) == ["old"]
    assert f"look at the gallery: the delta1 of 47.3 of {old} may be near chance" in capsys.readouterr().err
    nothing = make_teacher(tmp_path / "nothing", ("depth",), 32, {"depth/delta1": 0.5})
    with pytest.raises(UserError, match=r"hardly learnt depth: .* delta1 is 0\.5, and up to 1\.0 is near chance"):
        teachers.load(config(nothing))
