"""What only a GPU or TPU can tell. Stops after eight minutes; sections that had no time left are said to have failed.

python benchmarks/accelerator.py [--size=full|toy] [--only=SECTION,...] [--out=FILE] [--minutes=8]

five       train step of a ResNet-50-FPN student of all five tasks, 512 pixels, bfloat16: steps/s, share of peak, and
           the allocator's peak of memory against what `stage: compile` forecasts for the same program
one        the same of depth alone
network    forward, backward and SGD of the network alone, beside the same network in PyTorch (channels_last, autocast
           to bfloat16), eager and with torch.compile; see benchmarks/train_step.py
labelling  one and five teachers: images/s from JPEGs to shards, against their bare forward passes
bits       two short trainings, and two with `--xla_gpu_deterministic_ops=true`: do they end with the same bits? Nothing
           compiled is kept, so each chooses its kernels anew
survival   tests that send SIGTERM and `kill -9` to a training, which runs on the device, with deterministic operations

Every measurement is a process of its own with a limit of time; one that fails costs a line and not the others. On GPUs
the last two sections run side by side, since they measure no speed. The result file is written after every section.
Operations are counted before compilation, as for the `mfu` of a training.

Compiled programs are kept in JAX_COMPILATION_CACHE_DIR; if that is not set, for this call alone.

Needs no network, and runs from the source tree (`PYTHONPATH=.`). An image for machine learning usually has jax with its
plugin, flax, optax, orbax-checkpoint, NumPy, SciPy, Matplotlib, OpenCV (headless), Pillow, tifffile, PyArrow,
TensorBoard, Rich, Jinja2, etils, tensorstore, psutil, pytest and pytest-xdist, and torch for `network`. Beside these it
takes wheels of: annotated-types, array-record, cloudpickle, clu, defusedxml, dm-tree, docstring-parser,
faster-coco-eval, googleapis-common-protos, ImageHash, immutabledict, ml-collections, portpicker, promise (which has
to be built: `pip wheel promise`), protobuf, pydantic, pydantic-core, PyWavelets, simple-parsing, simplejpeg,
simplejson, tensorflow-datasets, tensorflow-metadata, termcolor, toml, typing-extensions and typing-inspection.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerator_parts import SIZES

from must_jax.cores import cores
from must_jax.files import write_json

ROOT, GIB = Path(__file__).parents[1], 2**30
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class Failed(Exception):
    """A measurement that did not end as it should; the message is one line."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Part:
    """A process at the head of a group of its own, which must end in time."""

    def __init__(self, command: list[str], limit_s: float, environment: Mapping[str, str]) -> None:
        self._out, self._log = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115, they live as long as this
        self._ends, self._limit_s = time.monotonic() + limit_s, limit_s
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._log,
            start_new_session=True,
        )

    def output(self) -> str:
        """Waits for its end.

        Raises:
          Failed: it fails, or takes too long.
        """
        try:
            code = self._process.wait(max(0.0, self._ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.end()
            raise Failed(f"not done within {self._limit_s:.0f} s", self._text(self._log)) from None
        out, log = self._text(self._out), self._text(self._log)
        if code:
            lines = [line for line in (log + out).splitlines() if line.strip()] or ["no message"]
            # pytest names what has failed before its last line, others say it last
            told = next((line for line in lines if line.startswith(("FAILED", "ERROR "))), lines[-1])
            raise Failed(f"exit code {code}: {told[:300]}", log + out)
        return out

    def end(self) -> None:
        """Kills what is left of the group."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()

    @staticmethod
    def _text(file: Any) -> str:
        file.seek(0)
        return str(file.read())


class Bench:
    """Starts the parts, within the time that all of them have."""

    def __init__(self, size: str, minutes: float, home: Path) -> None:
        self.size, self.device = size, {}
        self._ends, self._home, self._begun = time.monotonic() + 60 * minutes, home, list[Part]()

    @property
    def side_by_side(self) -> bool:
        """Whether several processes can use the device; a TPU belongs to one."""
        return self.device.get("platform") != "tpu"

    def begin(self, command: list[str], limit_s: float, **environment: str) -> Part:
        left_s = self._ends - time.monotonic()
        if left_s < 5:
            raise Failed("no time is left; choose fewer sections (--only), or more --minutes")
        usual = {"JAX_COMPILATION_CACHE_DIR": str(self._home), "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
        usual |= {"JAX_TRACEBACK_FILTERING": "off"}  # so that the last line is the error
        self._begun.append(Part(command, min(limit_s, left_s), usual | os.environ | environment))
        return self._begun[-1]

    def part(self, name: str, limit_s: float, **environment: str) -> Part:
        command = [sys.executable, str(ROOT / "benchmarks/accelerator_parts.py"), name, self.size]
        return self.begin(command, limit_s, **environment)

    def measure(self, name: str, limit_s: float) -> dict[str, Any]:
        return told(self.part(name, limit_s))

    def end(self) -> None:
        for part in self._begun:
            part.end()


def told(part: Part) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(part.output().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--out", default="", help="a JSON file for the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    args = parser.parse_args()
    chosen = [name for name in SECTIONS if name in args.only.split(",")]
    if unknown := set(args.only.split(",")) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the parts end as well
    with tempfile.TemporaryDirectory() as home:
        bench = Bench(args.size, args.minutes, Path(home))
        try:
            measure_all(bench, chosen, args.out)
        finally:
            bench.end()


def measure_all(bench: Bench, chosen: list[str], out: str) -> None:
    results: dict[str, Any] = {"size": bench.size, "sections": {}}
    tests: Part | None = None
    for name in ["device", *chosen]:
        began = time.perf_counter()
        try:
            if name == "device":
                result = bench.device = results["device"] = bench.measure("device", 90)
            elif name == "survival":
                result = survival(bench, tests or begin_tests(bench))
            else:
                if name == "bits" and "survival" in chosen and bench.side_by_side:
                    with contextlib.suppress(Failed):  # `survival` fails for the same reason in its turn
                        tests = begin_tests(bench)
                result = SECTIONS[name](bench)
        except Failed as failed:
            result = {"error": str(failed), "log": failed.log[-4000:]}
        result["seconds"] = time.perf_counter() - began
        if name != "device":
            results["sections"][name] = result
        lines = [f"FAILED, {result['error']}"] if "error" in result else LINES[name](result)
        for number, line in enumerate([*lines[:-1], f"{lines[-1]}  [{result['seconds']:.0f} s]"]):
            print(f"{name * (number == 0):10} {line}", flush=True)
        if out:
            write_json(Path(out), results)


def train_lines(result: Mapping[str, Any]) -> list[str]:
    peak, used, share = (result[key] for key in ("peak_flops", "allocator_peak_bytes", "share_of_peak"))
    forecast = result["forecast_bytes"]
    memory = "not reported by this device" if used is None else f"{used / GIB:.3g} GiB, {used / forecast - 1:+.1%}"
    early = result["allocator_peak_bytes_before_the_first_step"]
    return [
        f"{result['steps_per_second']:.3f} steps/s of {result['batch_size']} images of {result['image_size']} pixels, "
        f"{result['images_per_second']:.1f} images/s, {result['flops_per_image'] / 1e9:.4g} GFLOP an image, "
        + (f"{share:.1%} of the peak of {peak / 1e12:.1f} TFLOP/s" if peak else "the peak of this device is unknown")
        + f", compiled in {result['compile_seconds']:.0f} s",
        f"memory as `stage: compile` forecasts it {forecast / GIB:.3g} GiB; the allocator's peak {memory}"
        + (f" ({early / GIB:.3g} GiB before the first step, compilation included)" if early is not None else "")
        + (f"; {result['skipped']:.0f} updates were not finite" if result["skipped"] else ""),
    ]


def network(bench: Bench) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, limit_s in {"must_jax": 150, "torch": 60, "torch_compiled": 200}.items():
        if name != "must_jax" and importlib.util.find_spec("torch") is None:
            result[name] = {"error": "PyTorch is not installed"}
            continue
        try:
            result[name] = bench.measure(name, limit_s)
        except Failed as failed:
            result[name] = {"error": str(failed), "log": failed.log[-4000:]}
    return result


def network_lines(result: Mapping[str, Any]) -> list[str]:
    lines, ours = [], result["must_jax"].get("images_per_second")
    for name in ("must_jax", "torch", "torch_compiled"):
        part = result[name]
        if "error" in part:
            lines.append(f"{name:14} FAILED, {part['error']}")
            continue
        rate = part["images_per_second"]
        ratio = f", must_jax is {ours / rate:.2f} x as fast" if ours and name != "must_jax" else ""
        compilation = f", compiled in {part['compile_s']:.0f} s" if part["compile_s"] else ""
        lines.append(f"{name:14} {rate:.1f} images/s, {part['parameters']:,} parameters{compilation}{ratio}")
    return lines


def label_lines(result: Mapping[str, Any]) -> list[str]:
    return [
        f"{name:5} bare forward {each['bare']:.1f} images/s, labelling by threads {each['threads']:.1f}, by {cores()} "
        f"worker processes {each['labelling']:.1f}: {each['share']:.0%}; {1000 * each['process_seconds']:.2f} ms of "
        "CPU an image left in the process that feeds the devices"
        for name, each in ((name, result[name]) for name in ("one", "five"))
    ]


def flags(more: str) -> str:
    return f"{os.environ.get('XLA_FLAGS', '')} {more}".strip()


def bits(bench: Bench) -> dict[str, Any]:
    result: dict[str, Any] = {}
    options = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    for name, flag in {"deterministic": DETERMINISTIC, "default": ""}.items():
        environment = options | {"XLA_FLAGS": flags(flag)}
        if bench.side_by_side:
            pair = list(map(told, [bench.part("repeated", 120, **environment) for _ in range(2)]))
        else:
            pair = [told(bench.part("repeated", 120, **environment)) for _ in range(2)]
        if any(each["skipped"] for each in pair):
            raise Failed("updates were not finite, so that nothing was learnt and nothing is compared")
        result[name] = {"same": pair[0]["digest"] == pair[1]["digest"], "digests": [each["digest"] for each in pair]}
    return result


def bits_lines(result: Mapping[str, Any]) -> list[str]:
    return [
        f"{'with ' + DETERMINISTIC if name == 'deterministic' else 'without it'}: two runs end with "
        f"{'the same bits' if result[name]['same'] else 'DIFFERENT bits'} ({result[name]['digests'][0][:12]}, "
        f"{result[name]['digests'][1][:12]})"
        for name in ("deterministic", "default")
    ]


def begin_tests(bench: Bench) -> Part:
    """The tests themselves are on the CPU, and what they start is on the device."""
    kind = {"gpu": "cuda"}.get(bench.device.get("platform", "cpu"), bench.device.get("platform", "cpu"))
    size = SIZES[bench.size]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-W", "default", "-p", "no:cacheprovider", *size.tests]
    return bench.begin(
        command,
        240,
        MUST_JAX_TEST_PLATFORMS=kind if kind == "cpu" else f"{kind},cpu",
        MUST_JAX_TEST_KILLS=str(size.kills),
        XLA_FLAGS=flags(DETERMINISTIC),
        XLA_PYTHON_CLIENT_PREALLOCATE="false",
    )


def survival(bench: Bench, tests: Part) -> dict[str, Any]:
    summary = tests.output().splitlines()[-1]
    return {"summary": summary, "tests": SIZES[bench.size].tests, "platform": bench.device.get("platform")}


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "five": lambda bench: bench.measure("five", 240),
    "one": lambda bench: bench.measure("one", 120),
    "network": network,
    "labelling": lambda bench: bench.measure("labelling", 200),
    "bits": bits,
    "survival": lambda bench: survival(bench, begin_tests(bench)),
}
LINES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "device": lambda told: [
        f"{told['devices']} {told['kind']}, {told['cores']} cores, "
        + ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    ],
    "five": train_lines,
    "one": train_lines,
    "network": network_lines,
    "labelling": label_lines,
    "bits": bits_lines,
    "survival": lambda told: [f"{told['summary']}, on {told['platform']}"],
}

if __name__ == "__main__":
    main()
