"""Export: a finished run as files that timm, transformers, onnxruntime and any StableHLO runtime open."""

from __future__ import annotations

import datetime
import shutil
import time
from pathlib import Path

from must_jax import description, trained
from must_jax.config import ExportConfig, ValidationConfig
from must_jax.engine.mesh import make_mesh, setup_devices
from must_jax.errors import UserError
from must_jax.exporting import files, parity, readme, timing
from must_jax.exporting.base import Network, Written
from must_jax.exporting.record import FileRecord, Latency
from must_jax.files import bytes_in, write_json, write_text
from must_jax.progress import counted, say
from must_jax.runs import results
from must_jax.runs.workdir import RESULT_FILE, check, claim
from must_jax.training import validation
from must_jax.training.validation import HeldOut

PARITY_FILE = "parity.json"


def run(config: ExportConfig, workdir: Path) -> None:
    """Writes a folder or files for each format, `README.md`, `parity.json` and, last, `result.json` into the workdir.

    Each file is opened again by the runtime that it is for, and compared with the run; one that is out of tolerance is
    removed.

    Raises:
      UserError: the run is not finished, a library is missing or has no such network, there are no labelled images to
        compare on, a file is out of tolerance; a workdir of another config.
    """
    check(workdir, config)
    started, told = time.perf_counter(), description.read(config.model)
    if _is_finished(workdir, told.digest):
        say(f"{workdir} is finished; nothing to do, see {workdir / readme.README}")
        return
    setup_devices(config.devices)
    network = Network(trained.load(config.model, make_mesh(config.devices, [config.batch_size])))
    files.check(config, network)
    judge = parity.Judge(config, network, _held_out(config, told, network))
    claim(workdir, config)
    for name in (RESULT_FILE, readme.README, PARITY_FILE):  # of an earlier export
        (workdir / name).unlink(missing_ok=True)
    for name in config.formats:
        shutil.rmtree(workdir / name, ignore_errors=True)

    records: dict[str, FileRecord] = {}
    for written in files.write(config, network, workdir):
        records[written.name] = _examined(config, network, judge, written, workdir)
        write_json(workdir / PARITY_FILE, {name: record.model_dump() for name, record in records.items()})
    shutil.copy2(Path(config.model) / "model.json", workdir)
    write_text(workdir / readme.README, readme.text(network, records, datetime.date.today()))
    seconds = time.perf_counter() - started
    write_json(workdir / RESULT_FILE, {"digest": told.digest, "files": list(records), "seconds": seconds})
    say(f"see {workdir / readme.README}")


def _examined(
    config: ExportConfig, network: Network, judge: parity.Judge, written: Written, workdir: Path
) -> FileRecord:
    """What is to be said of a file.

    Raises:
      UserError: it is out of tolerance, and removed now, or its example fails.
    """
    place = workdir / written.name
    # ONNX of more than 2 GiB has a second file.
    paths = [place] if place.is_dir() else list(place.parent.glob(f"{place.name}*"))
    found = judge.compare(written)
    if failed := list(parity.failures(found, config)):
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise UserError(f"{place} is not handed out, since it differs from {config.model}: {'; '.join(failed)}")
    latency = []
    for batch_size in config.latency:
        file_s, run_s = timing.seconds(written, network, batch_size)
        latency.append(Latency(batch_size=batch_size, file_s=file_s, run_s=run_s))
    size = sum(bytes_in(path) if path.is_dir() else path.stat().st_size for path in paths)
    largest = max(each.largest for each in found.outputs.values())
    times = ", ".join(f"{each.file_s / each.run_s:.2f} x at {each.batch_size}" for each in latency)
    say(
        f"{place}: {size / 2**20:.1f} MiB, numbers within {largest:.1e} on {counted(found.images, 'image')}"
        + ("" if found.metrics else ", without metrics, as its tasks are not labelled there")
        + (f", time of must_jax's {times}" if times else "")
    )
    printed = readme.run_example(workdir, written.example, written.name)
    if place.is_dir():
        write_text(place / readme.README, readme.card(network, written))
    return FileRecord(
        holds=written.holds,
        bytes=size,
        example=written.example,
        printed=printed,
        parity=found,
        latency=latency,
    )


def _held_out(config: ExportConfig, told: description.Description, network: Network) -> list[HeldOut]:
    """The labelled images to compare on."""
    sources = config.validation or tuple(ValidationConfig.model_validate(each) for each in told.validation or ())
    if not sources:
        raise UserError(
            f"{config.model} was validated on no images; name labelled ones to compare the files on with "
            "--config.validation.0.images"
        )
    if config.take:
        sources = tuple(
            each.model_copy(update={"take": min(config.take, each.take or config.take)}) for each in sources
        )
    tasks = network.trained.tasks
    return validation.to_measure(validation.opened(sources, config.data_dir, tasks), tasks)


def _is_finished(workdir: Path, digest: str) -> bool:
    finished = results.read(workdir, results.ExportResult)
    return (
        finished is not None and finished.digest == digest and all((workdir / name).exists() for name in finished.files)
    )
