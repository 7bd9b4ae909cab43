"""What only a GPU or TPU can tell, within eight minutes.

python benchmarks/accelerator.py [--size=full|toy] [--only=SECTION,...] [--out=FILE] [--minutes=8]

bits       two short trainings, and two with `--xla_gpu_deterministic_ops=true`: do they end with the same bits? Nothing
           compiled is kept, so each chooses its kernels anew
survival   tests that send SIGTERM and `kill -9` to a training, which runs on the device, with deterministic operations
network    forward, backward and SGD of the network alone, beside the same network in PyTorch (channels_last, autocast
           to bfloat16), eager and with torch.compile; see benchmarks/train_step.py
five       train step of a ResNet-50-FPN student of all five tasks, 512 pixels, bfloat16: steps/s, share of peak, and
           the allocator's peak of memory against what `stage: compile` forecasts for the same program
one        the same of depth alone
labelling  one and five teachers: images/s from JPEGs to shards, against their bare forward passes

Every part is a process of its own with a limit of time; one that fails costs a line and not the others. What measures
no speed comes first, all of it side by side on a GPU: `bits`, `survival`, and a first torch.compile, which leaves files
for the one that is timed. Then what is timed runs alone, one part after the other; it has loaded its modules before.
When the time is up, the rest is left out, and the last line says so. The result file is written after every part.

Operations are counted before compilation, as for the `mfu` of a training. Programs that jax compiles are kept in
JAX_COMPILATION_CACHE_DIR; if that is not set, for this call alone.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from accelerator_parts import GO, SIZES

from must_jax.files import write_json

ROOT, GIB = Path(__file__).parents[1], 2**30
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
LEAST_S = 5.0  # no part is begun for less
LOOK_S = 0.05  # between looks at the parts that run
Result = dict[str, Any]  # of a part, and its "seconds"; if it has none, "error" and "log", or "left_out" say why
Parts = Mapping[str, Result]
Key = tuple[str, str]  # of a part: its section, and its name
BITS = {"deterministic": DETERMINISTIC, "default": ""}


class Job(NamedTuple):
    """A command whose last line is its result, and how long it may take."""

    command: Sequence[str]
    limit_s: float
    environment: Mapping[str, str] = {}
    read: Callable[[str], Result] = json.loads


class Process:
    """A job at the head of a process group. Those of accelerator_parts.py load modules, and wait until they `go`."""

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        self._job, self._began, self._ended = job, 0.0, False
        self._out, self._log = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115, they live as long as this
        self._process = subprocess.Popen(
            job.command,
            cwd=ROOT,
            env={**environment, **job.environment},
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._log,
            start_new_session=True,
            text=True,
        )
        self._stdin = cast(IO[str], self._process.stdin)

    def go(self) -> None:
        self._began = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it has failed already
            print(GO, file=self._stdin, flush=True)

    def result(self, ends: float) -> Result | None:
        """None while it works. It is killed at its limit, and when the time of all parts `ends`."""
        now, code = time.monotonic(), self._process.poll()
        if code is None and now < min(ends, self._began + self._job.limit_s):
            return None
        out, log = self.end()
        if code is None:
            if now >= ends:
                return {"left_out": "the time was up before it was done"}
            return {"error": f"not done within {self._job.limit_s:.0f} s", "log": log[-4000:]}
        if code:
            lines = [line for line in (log + out).splitlines() if line.strip()] or ["no message"]
            # pytest names what has failed before its last line, others say it last
            told = next((line for line in lines if line.startswith(("FAILED", "ERROR "))), lines[-1])
            return {"error": f"exit code {code}: {told[:300]}", "log": (log + out)[-4000:]}
        return {**self._job.read(out.splitlines()[-1]), "seconds": now - self._began}

    def end(self) -> tuple[str, str]:
        """Kills what is left of the group. Returns what it has printed, and its log."""
        if self._out.closed:
            return "", ""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in (self._out, self._log):
            file.seek(0)
        told = self._out.read(), self._log.read()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._out.close()
        self._log.close()
        return told


class Bench:
    """Runs jobs, within the time that all of them have."""

    def __init__(self, size: str, minutes: float, home: Path) -> None:
        self.size, self.platform = size, ""
        self._began = time.monotonic()
        self._ends, self._begun = self._began + 60 * minutes, list[Process]()
        self._environment = {
            "JAX_COMPILATION_CACHE_DIR": str(home / "jax"),
            "JAX_TRACEBACK_FILTERING": "off",  # so that the last line is the error
            "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
            "TRITON_CACHE_DIR": str(home / "triton"),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        } | os.environ

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def part(self, name: str, limit_s: float, **environment: str) -> Job:
        return Job(
            [sys.executable, str(ROOT / "benchmarks/accelerator_parts.py"), name, self.size], limit_s, environment
        )

    def begin(self, job: Job) -> Process:
        self._begun.append(Process(job, self._environment))
        return self._begun[-1]

    def run(self, jobs: Mapping[Key, Job | Process]) -> Iterator[tuple[Key, Result]]:
        """Runs them at the same time. Yields the result of each when it has ended."""
        if self._ends - time.monotonic() < LEAST_S:
            yield from ((key, {"left_out": "no time was left"}) for key in jobs)
            return
        running = {key: self.begin(job) if isinstance(job, Job) else job for key, job in jobs.items()}
        for process in running.values():
            process.go()
        while running:
            time.sleep(LOOK_S)
            for key, process in list(running.items()):
                if (result := process.result(self._ends)) is not None:
                    del running[key]
                    yield key, result

    def end(self) -> None:
        for process in self._begun:
            process.end()


class Section(NamedTuple):
    """Parts by name: those that measure no speed run `beside` others; those that do, with a limit in seconds, `alone`.

    `lines` says what they have found; parts that came to nothing are missing.
    """

    lines: Callable[[Parts], list[str]]
    beside: Callable[[Bench], Mapping[str, Job]] = lambda bench: {}
    alone: Callable[[Bench], Mapping[str, float]] = lambda bench: {}


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
    results: dict[str, Any] = {"size": bench.size, "sections": {name: {} for name in chosen}}
    for _, device in bench.run({("device", ""): bench.part("device", 90)}):
        results["device"], bench.platform = device, device.get("platform", "")
    show("device", {"device": results["device"]}, device_lines)

    beside = {(name, part): job for name in chosen for part, job in SECTIONS[name].beside(bench).items()}
    alone = {
        (name, part): bench.begin(bench.part(part, limit_s))
        for name in chosen
        for part, limit_s in SECTIONS[name].alone(bench).items()
    }
    one_by_one: list[Mapping[Key, Job | Process]] = [{key: process} for key, process in alone.items()]
    if bench.platform == "tpu":  # belongs to one process
        rounds = [*one_by_one, *({key: job} for key, job in beside.items())]
    else:
        rounds = [beside, *one_by_one]
    missing = {name: sum(key[0] == name for key in (*beside, *alone)) for name in chosen}
    for jobs in rounds:
        for (name, part), result in bench.run(jobs):
            results["sections"][name][part] = result
            if len(results["sections"][name]) == missing[name]:
                show(name, results["sections"][name], SECTIONS[name].lines)
            if out:
                write_json(Path(out), results)
    left_out = [key for key in (*beside, *alone) if "left_out" in results["sections"][key[0]][key[1]]]
    told = ", ".join(" ".join(dict.fromkeys(key)) for key in left_out)
    print(f"{'all':10} {bench.seconds:.0f} s" + f"; left out: {told}" * bool(told))


def show(name: str, parts: Parts, lines_of: Callable[[Parts], list[str]]) -> None:
    """Prints a section: what its parts have found, and how long each took."""
    found = {part: result for part, result in parts.items() if "seconds" in result}
    lines = lines_of(found) if found else []
    for part, result in parts.items():
        if "error" in result:
            lines.append(f"{part}: FAILED, {result['error']}")
        elif "left_out" in result:
            lines.append(f"{part}: left out, {result['left_out']}")
    lines.append("[" + ", ".join(f"{part} {result['seconds']:.0f} s" for part, result in found.items()) + "]")
    for number, line in enumerate(line for line in lines if line != "[]"):
        print(f"{name * (number == 0):10} {line}", flush=True)


def device_lines(parts: Parts) -> list[str]:
    told = parts["device"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    return [f"{told['devices']} {told['kind']}, {told['cores']} cores, {versions}"]


def train_lines(parts: Parts) -> list[str]:
    (result,) = parts.values()
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


def networks(bench: Bench) -> dict[str, float]:
    """PyTorch does not run on TPUs. Its compiler takes minutes of the cores, and is compared on GPUs alone."""
    has_torch = importlib.util.find_spec("torch") is not None
    limits = {"must_jax": 150.0}
    limits |= {"torch": 90.0} if has_torch and bench.platform != "tpu" else {}
    return limits | ({"torch_compiled": 240.0} if has_torch and bench.platform == "gpu" else {})


def first_compilation(bench: Bench) -> dict[str, Job]:
    return {"torch.compile": bench.part("torch.compile", 240)} if "torch_compiled" in networks(bench) else {}


def network_lines(parts: Parts) -> list[str]:
    lines, ours = [], parts.get("must_jax", {}).get("images_per_second")
    for name in ("must_jax", "torch", "torch_compiled"):
        if name in parts:
            rate = parts[name]["images_per_second"]
            ratio = f", must_jax is {ours / rate:.2f} x as fast" if ours and name != "must_jax" else ""
            seconds = parts[name]["compile_s"]
            compilation = f", compiled in {seconds:.0f} s" if seconds else ""
            if name == "torch_compiled" and (first := parts.get("torch.compile")):
                compilation += f" ({first['compile_s']:.0f} s the first time, beside other work)"
            lines.append(f"{name:14} {rate:.1f} images/s, {parts[name]['parameters']:,} parameters{compilation}{ratio}")
    return lines


def label_lines(parts: Parts) -> list[str]:
    return [
        f"{name:5} bare forward {each['bare']:.1f} images/s, labelling {each['labelling']:.1f} by {each['readers']}: "
        f"{each['share']:.0%}; {1000 * each['process_seconds']:.2f} ms of CPU an image left in the process that feeds "
        "the device"
        for name, each in parts["labelling"]["teachers"].items()
    ]


def flags(more: str) -> str:
    return f"{os.environ.get('XLA_FLAGS', '')} {more}".strip()


def repeated(bench: Bench) -> dict[str, Job]:
    options = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {
        f"{name} {number}": bench.part("repeated", 180, XLA_FLAGS=flags(flag), **options)
        for name, flag in BITS.items()
        for number in (1, 2)
    }


def bits_lines(parts: Parts) -> list[str]:
    lines = []
    for name, flag in BITS.items():
        pair = [result for part, result in parts.items() if part.startswith(name)]
        if any(each["skipped"] for each in pair):
            lines.append("updates were not finite, so that nothing was learnt and nothing is compared")
        elif len(pair) == 2:
            first, second = (each["digest"] for each in pair)
            same = "the same bits" if first == second else "DIFFERENT bits"
            how = f"with {flag}" if flag else "without it"
            lines.append(f"{how}: two runs end with {same} ({first[:12]}, {second[:12]})")
    return lines


def survival(bench: Bench) -> dict[str, Job]:
    """The tests themselves are on the CPU, and what they start is on the device."""
    kind = {"gpu": "cuda"}.get(bench.platform, bench.platform or "cpu")
    environment = {
        "MUST_JAX_TEST_PLATFORMS": kind if kind == "cpu" else f"{kind},cpu",
        "MUST_JAX_TEST_KILLS": str(SIZES[bench.size].kills),
        "XLA_FLAGS": flags(DETERMINISTIC),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-W", "default", "-p", "no:cacheprovider"]
    return {
        test.rpartition("::")[2]: Job([*command, test], 220, environment, lambda line: {"summary": line})
        for test in SIZES[bench.size].tests
    }


SECTIONS = {
    "bits": Section(bits_lines, beside=repeated),
    "survival": Section(
        lambda parts: [f"{name}: {result['summary']}" for name, result in parts.items()], beside=survival
    ),
    "network": Section(network_lines, beside=first_compilation, alone=networks),
    "five": Section(train_lines, alone=lambda _: {"five": 240}),
    "one": Section(train_lines, alone=lambda _: {"one": 120}),
    "labelling": Section(label_lines, alone=lambda _: {"labelling": 200}),
}

if __name__ == "__main__":
    main()
