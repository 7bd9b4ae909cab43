"""That the benchmark of the input pipeline works, at toy size."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
ROW = re.compile(r"(threads|processes) +(\d) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_way_and_count_has_its_figures() -> None:
    command = [sys.executable, str(BENCHMARKS / "pipeline.py"), "--only=scaling", "--counts=1,2"]
    done = subprocess.run(
        [*command, "--images=1", "--rounds=1", "--batches=1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = {(found[1], found[2]): [float(each) for each in found.groups()[2:]] for found in ROW.finditer(done.stdout)}
    assert list(rows) == [("threads", "1"), ("threads", "2"), ("processes", "1"), ("processes", "2")]
    assert all(figure > 0 for row in rows.values() for figure in row)
    ready_gib = 32 * 640 * 640 * 3 / 2**30  # the images of one batch
    assert rows["processes", "2"][-1] > 4 * ready_gib  # the one in use, and more ahead, in no process's memory


def test_time_belongs_to_the_innermost_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from pipeline_python import PYTHON, owner

    ours = "work (pipeline_python.py:59);_values (must_jax/data/augment.py:192)"
    numpy = "array_multiply (numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so)"
    assert owner(ours) == PYTHON
    assert owner(f"{ours};{numpy}") == "NumPy"
    assert owner(f"{ours};{numpy};0x7f64d244524a (libc.so.6)") == "NumPy"
    assert owner(f"{ours};where (numpy/_core/multiarray.py:100)") == "NumPy"
    assert owner(f"{ours};0x7f6 (opencv_python_headless.libs/libopenblas.so);0x7f64 (libc.so.6)") == "OpenCV"
    assert owner(f"{ours};0x7f64d2 (libc.so.6)") == PYTHON
    read = "ArrayRecordDataSource.__getitem__ (array_record/python/array_record_data_source.py:367)"
    assert owner(f"{ours};{read}") == PYTHON
    assert (
        owner(f"{ours};{read};read (array_record/python/array_record_module.so);pread64 (libc.so.6)") == "ArrayRecord"
    )
    assert owner(f"{ours};0x7f6 (google/_upb/_message.abi3.so);malloc (libc.so.6)") == PYTHON
