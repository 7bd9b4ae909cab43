"""One bit of a checkpoint that is not as it was written, and how to go on from there."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest

from must_jax.config import OptimizerConfig
from must_jax.engine import sums
from must_jax.engine.checkpoint import Checkpoints, check_same, restore_variables
from must_jax.engine.mesh import make_mesh
from must_jax.engine.optimizers import build_optimizer
from must_jax.engine.state import init_state
from must_jax.errors import UserError

ITEMS = ("state", "data", "meta")


@pytest.fixture(scope="module")
def state(toy):
    return init_state(toy.variables(0), build_optimizer(OptimizerConfig()), make_mesh(2), ema=True)


@pytest.fixture
def saved(tmp_path, state):
    folder = tmp_path / "run" / "checkpoints"
    with Checkpoints(folder, {}) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, {"step": step})
    return folder


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for item in ITEMS for path in (checkpoint / item).rglob("*") if path.is_file())


def test_every_checkpoint_has_the_sums_of_all_its_files(saved):
    for step in (1, 2):
        told = json.loads((saved / str(step) / sums.FILE).read_text())
        assert list(told["files"]) == [str(path.relative_to(saved / str(step))) for path in files_of(saved / str(step))]
        assert told["step"] == step
        assert sums.changed(saved / str(step), step) == ""


@pytest.mark.parametrize("read", ["resume", "load"])
def test_one_bit_anywhere_is_found_named_and_nothing_is_lost(saved, state, read):
    def call():
        check_same(saved, {}, state) if read == "resume" else restore_variables(saved)

    rng, home = random.Random(0), re.escape(str(saved))
    remedy = {
        "resume": rf"the checkpoint of step 1 is whole: remove {home}/2, and the same command then goes on from there",
        "load": rf"step 1 is whole: remove {home}/2 and {re.escape(str(saved.parent))}/model.json, and start",
    }[read]
    for file in [*files_of(saved / "2"), saved / "2" / sums.FILE]:
        whole = file.read_bytes()
        for at in {0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(3))} if whole else ():
            flipped = bytearray(whole)
            flipped[at] ^= 1 << rng.randrange(8)
            file.write_bytes(flipped)
            what = "is damaged" if file.name == sums.FILE else r"has other bytes than were written \(sha256 differs\)"
            with pytest.raises(UserError, match=rf"^{re.escape(str(file))} {what}; .*{remedy}"):
                call()
        file.write_bytes(whole)
    call()
    shutil.rmtree(saved / "2")
    call()  # as the sentence says


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda two: next((two / "state/d").iterdir()).unlink(), r"/state/d/\w+ is missing; the checkpoint of step 1"),
        (lambda two: (two / "state/new").write_text("x"), "/state/new does not belong there; "),
        (lambda two: (two / "meta/metadata").write_text(""), "/meta/metadata has other bytes"),
        (lambda two: (two / sums.FILE).write_text("{}"), f"/{sums.FILE} is damaged; "),
        (lambda two: (two / sums.FILE).unlink(), f"/2/{sums.FILE} is missing; the checkpoint of step 1 is whole"),
        (lambda two: ((two / sums.FILE).unlink(), os.mkfifo(two / sums.FILE)), f"/{sums.FILE} is damaged; "),
        (
            lambda two: ((two / "_CHECKPOINT_METADATA").unlink(), os.mkfifo(two / "_CHECKPOINT_METADATA")),
            "/_CHECKPOINT_METADATA is not a file, but a pipe, .*; the checkpoint of step 1 is whole",
        ),
        (
            lambda two: ((two / sums.FILE).unlink(), (two / "state/new").symlink_to("/dev/null")),
            "/state/new is not a file, but a pipe, a device or a dangling link; ",
        ),
        (lambda two: two.rename(two.with_name("3")), "/3 was written as step 2; the checkpoint of step 1 is whole"),
        (lambda two: (two.with_name("7")).mkdir(), f"/7/{sums.FILE} is missing; the checkpoint of step 2 is"),
        (lambda two: (two / "_CHECKPOINT_METADATA").write_text("[1]"), r"/2 cannot be read as a checkpoint \("),
        (lambda two: (shutil.rmtree(two.parent), two.parent.write_text("")), " is not a folder; move it away"),
    ],
)
@pytest.mark.parametrize("read", ["resume", "load"])
def test_other_damage_is_a_sentence(saved, state, harm, sentence, read):
    harm(saved / "2")
    with pytest.raises(UserError, match=sentence):
        check_same(saved, {}, state) if read == "resume" else restore_variables(saved)


@pytest.mark.parametrize("read", ["resume", "load", "replay"])
def test_an_older_one_that_is_damaged_can_be_removed(saved, state, read):
    def call():
        if read == "replay":
            with Checkpoints(saved, {}, read_only=True) as checkpoints:
                checkpoints.restore(checkpoints.steps()[0], state)
        else:
            check_same(saved, {}, state) if read == "resume" else restore_variables(saved)

    (saved / "1/state/new").symlink_to("/nowhere")
    with pytest.raises(UserError, match=rf"the newer checkpoint of step 2 is whole: remove {re.escape(str(saved))}/1$"):
        call()
    shutil.rmtree(saved / "1")
    call()


def test_where_no_other_is_whole_the_sentence_says_what_is_left_to_do(saved, state):
    for step in (1, 2):
        (saved / str(step) / "meta/metadata").write_text("")
    with pytest.raises(UserError, match=f"restore it from a copy, or remove {re.escape(str(saved.parent))} and"):
        check_same(saved, {}, state)
