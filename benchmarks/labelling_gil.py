"""How much of labelling only one thread of the process can do at a time: CPU time with the interpreter's lock (GIL).

python benchmarks/labelling_gil.py [--rounds=2] [--images=1024]

Networks of 512 pixels that answer at once, one for depth or five, label JPEGs of 500x375 in batches of 64, by threads
and by worker processes (`config.input.workers`), one per core. A small library in C, loaded before all others, adds up
the CPU time of each thread of the labelling process between taking and giving up the lock, and counts how often that
happens: where many threads wait, each time costs some microseconds more. It sees the calls of extension modules, not
the interpreter's own, as when a file is read. What is done once, as starting processes, is left out: figures are
differences between two numbers of images.

Needs a C compiler, Linux, and a Python whose interpreter is a shared library.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

LIBRARY = "MUST_JAX_GIL_LIBRARY"
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
static void *(*give_up)(void);
static void (*take)(void *);
static _Atomic int64_t held_ns, times;
static __thread int64_t since_ns;

__attribute__((constructor)) static void find(void) {
  give_up = (void *(*)(void))dlsym(RTLD_NEXT, "PyEval_SaveThread");
  take = (void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
}
static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}
void *PyEval_SaveThread(void) {
  held_ns += now_ns() - since_ns;
  times++;
  return give_up();
}
void PyEval_RestoreThread(void *state) {
  take(state);
  since_ns = now_ns();
}
void gil_reset(void) { held_ns = times = 0; since_ns = now_ns(); }
int64_t gil_held_ns(void) { int64_t n = now_ns(); held_ns += n - since_ns; since_ns = n; return held_ns; }
int64_t gil_times(void) { return times; }
"""
SIZE, BATCH, SHORT = 512, 64, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=1024)
    args = parser.parse_args()
    if LIBRARY in os.environ:
        measure(args.rounds, args.images)
        return
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        parser.error("this Python's interpreter is no shared library, so that its calls cannot be counted")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "gil.c", Path(folder) / "gil.so"
        source.write_text(SOURCE)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), LIBRARY: str(library)}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)


def measure(rounds: int, count: int) -> None:
    import labelling

    from must_jax.config import ModelConfig
    from must_jax.cores import cores
    from must_jax.data.fitting import Input
    from must_jax.data.image_sets import ImageSet, open_images
    from must_jax.engine.mesh import setup_devices
    from must_jax.labelling.asking import read, readers
    from must_jax.teachers.own import owned

    gil = ctypes.PyDLL(os.environ[LIBRARY])
    gil.gil_held_ns.restype = gil.gil_times.restype = ctypes.c_int64
    setup_devices()
    small = ModelConfig(backbone="resnet10", width=0.125, pyramid_channels=8, head_channels=8, head_convs=1)
    preset = labelling.Preset(small, (SIZE,), (375, 500), BATCH, SHORT)
    models = labelling.make_teachers(preset)
    with tempfile.TemporaryDirectory() as folder:
        labelling.write_images(Path(folder), preset, SHORT)
        photos = open_images(f"folder:{folder}", "")
        with readers(photos, [range(BATCH)], owned(models), BATCH) as begin:
            inputs = next(read(begin, [range(BATCH)])).inputs[Input(SIZE, SIZE)]
        five = {name: labelling.instant(model, inputs) for name, model in models.items()}
        sets = {"one": {"teacher_depth": five["teacher_depth"]}, "five": five}

        def held(teachers: str, workers: int, images: int) -> tuple[float, float]:
            """Milliseconds with the lock, and how often it was taken, for so many images."""
            many = ImageSet(photos.name, images, lambda index: photos.record(index % len(photos)), photos.digest)
            gil.gil_reset()
            labelling.label_all(many, sets[teachers], BATCH, workers)
            return gil.gil_held_ns() / 1e6, gil.gil_times()

        print(f"{cores()} cores; with the lock, an image:")
        for teachers in sets:
            found: dict[int, list[tuple[float, float]]] = {0: [], cores(): []}
            for _ in range(rounds):
                for workers, each in found.items():
                    pairs = zip(held(teachers, workers, count), held(teachers, workers, SHORT), strict=True)
                    ms, times = ((more - few) / (count - SHORT) for more, few in pairs)
                    each.append((ms, times))
            for workers, each in found.items():
                ms, times = map(statistics.median, zip(*each, strict=True))
                how = f"{workers} worker processes" if workers else "threads"
                print(
                    f"{teachers:5} {how:20} {ms:7.3f} ms: at most {1000 / ms:6,.0f} images/s; taken {times:6.1f} times"
                )


if __name__ == "__main__":
    main()
