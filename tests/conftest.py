"""Strict jax on four virtual CPU devices, for every test."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("MUST_JAX_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "must_jax"))

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from must_jax.engine.mesh import setup_devices

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
setup_devices(4)
assert jax.device_count() == 4  # from here on a run cannot change it


# Under `nohup`, or in the background of a script, Ctrl-C is ignored, by all that the tests start as well, and many of
# them are about it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

MARK = "MUST_JAX_TEST"  # environment variable: the test that has started a process, whoever its parent is by now
FAILED = pytest.StashKey[bool]()
PYTHONS_OWN = "multiprocessing"  # processes that serve all tests


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes stay out of the tests' names: gzip's hold the time, and all workers must see the same names."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    item.stash[FAILED] = report.failed or item.stash.get(FAILED, False)
    return report


@pytest.fixture(autouse=True)
def nothing_is_left_running(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that fails takes the processes with it that it has started, in whatever group or session they are."""
    mark = f"{os.getpid()}:{request.node.nodeid}"
    monkeypatch.setenv(MARK, mark)
    yield
    if request.node.stash.get(FAILED, False):
        kill_marked(mark)


def kill_marked(mark: str) -> None:
    """Kills every process that was started with this mark in its environment, and waits for its end."""
    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and not any(PYTHONS_OWN in word for word in process.cmdline()):
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left alone with them."""
    long = ("test_chaos.py", "test_kills.py", "test_preemption.py")
    items.sort(key=lambda item: long.index(item.path.name) if item.path.name in long else len(long))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where rendered scenes are kept for the tests of one process."""
    return tmp_path_factory.mktemp("data")


class ToyTask:
    """Regression with a mask: what the engine asks of a task, in a few lines."""

    counted = ""

    def loss(self, outputs: Any, labels: Any, input_hw: tuple[int, int]) -> dict[str, tuple[jax.Array, jax.Array]]:
        error = jnp.sum((outputs["y"] - labels["y"]) ** 2, -1)
        return {"squared": (jnp.sum(error * labels["present"]), jnp.sum(labels["present"]))}

    def predict(self, outputs: Any, input_hw: tuple[int, int]) -> dict[str, jax.Array]:
        return {"y": outputs["y"]}

    def in_frame_of(self, label: Any, prediction: Any, content: tuple[float, float]) -> Any:
        return prediction

    def metrics(self) -> ToyMetrics:
        return ToyMetrics()


class ToyMetrics:
    def __init__(self) -> None:
        self._sum = self._count = 0.0

    def update(self, prediction: Any, label: Any) -> None:
        self._sum += float(np.abs(prediction["y"] - label["y"]).sum() * label["present"])
        self._count += float(label["present"])

    def result(self) -> dict[str, float]:
        return {"error": self._sum / self._count, "count": self._count}

    def details(self) -> dict[str, Any]:
        return {}

    def chance(self) -> float:
        return 0.0


def toy_forward(variables: Any, batch: Any, train: bool) -> tuple[Any, Any]:
    """A linear layer on inputs from which a running mean is subtracted: parameters and statistics."""
    params, mean = variables["params"]["layer"], variables["stats"]["mean"]
    x = batch["x"] - mean[None]
    new = 0.9 * mean + 0.1 * jnp.mean(batch["x"], 0) if train else mean
    return {"toy": {"y": x @ params["kernel"] + params["bias"][None]}}, {"mean": new}


def toy_batch(k: int, size: int = 8) -> dict[str, Any]:
    """Batch k of an endless, learnable set."""
    rng = np.random.default_rng(k)
    x = rng.normal(size=(size, 3)).astype(np.float32)
    y = np.stack([x[:, 0] + x[:, 1], 2 * x[:, 2]], -1)
    return {"x": x, "labels": {"toy": {"y": y, "present": (rng.random(size) < 0.8).astype(np.float32)}}}


def toy_batches(start: int = 0) -> Iterator[dict[str, Any]]:
    return map(toy_batch, itertools.count(start))


def toy_variables(seed: int = 0) -> dict[str, Any]:
    kernel = np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)
    return {
        "params": {"layer": {"kernel": kernel, "bias": np.ones(2, np.float32)}},
        "stats": {"mean": np.zeros(3, np.float32)},
    }


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """A task, a network and its data that compile in no time."""
    return SimpleNamespace(
        tasks={"toy": ToyTask()},
        forward=toy_forward,
        batch=toy_batch,
        batches=toy_batches,
        variables=toy_variables,
    )


@pytest.fixture
def leaves() -> Callable[[Any], dict[str, np.ndarray]]:
    """A tree as {path: NumPy array}, to compare trees with names in the message."""

    def flatten(tree: Any) -> dict[str, np.ndarray]:
        found = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in found}

    return flatten
