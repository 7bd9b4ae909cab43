"""The command: a config file becomes a typed config, its stage runs in its workdir.

    python -m must_jax.main --config=configs/student.py [--workdir=runs/student] [--config.optimizer.learning_rate=0.1]

Any value of a config can be overridden by its path. With --help, the keys of its stage are listed, with their values;
`parsing.override` says how lists, mappings and empty values are written.
"""

from __future__ import annotations

import ast
import contextlib
import os
import runpy
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict

from must_jax import cli, preemption
from must_jax.config import LabelConfig, PipelineConfig
from must_jax.errors import Preempted, UserError, nearest
from must_jax.files import check_folder, make_folder, write_text
from must_jax.parsing import VALUES, abouts, check_other_data, override, parse
from must_jax.runs.workdir import PREEMPTED_FILE
from must_jax.stages import STAGES

_CONFIG = flags.DEFINE_string("config", None, "Config file; override any value with --config.KEY.KEY=VALUE.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<name of the config file>.")
_HELP = ("--help", "-h", "--helpfull", "--helpshort")
_OVERRIDE = "--config."
HELP_WIDTH = 80  # characters
HEARD_WITHIN_S = 1.0  # for the other processes to learn why this one ends


def parse_flags(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Passes the flags to absl and returns the overrides (path, text), whose names the config defines.

    Raises:
      UserError: an unknown flag, an override without a value, anything that is not a flag.
    """
    overrides = [argument for argument in argv if argument.startswith(_OVERRIDE)]
    for argument in overrides:
        if "=" not in argument:
            raise UserError(f"{argument} has no value; write {argument}=VALUE")
    try:
        rest = flags.FLAGS([argument for argument in argv if not argument.startswith(_OVERRIDE)])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from None
    if rest:
        raise UserError(f"{rest[0]} is not a flag; write --config=FILE, --workdir=FOLDER or --config.KEY=VALUE")
    return [(path, text) for path, _, text in (item.removeprefix(_OVERRIDE).partition("=") for item in overrides)]


def read_config(path: Path) -> dict[str, Any]:
    """The plain nested values that the `get_config()` of a config file returns.

    Raises:
      UserError: the file does not exist, or it fails.
    """
    if not path.is_file():
        folders = [path.parent, Path("configs")] if path.parent != Path() else [Path("configs"), Path()]
        found = next(filter(None, (sorted(folder.glob("*.py")) for folder in folders)), [])
        named = {file.stem: str(file) for file in found}
        raise UserError(f"--config={path} is not a file; {nearest(path.stem, named, named.__getitem__)}")
    sys.path.insert(0, str(path.resolve().parent.parent))  # lets one config import another: from configs import ...
    try:
        return ConfigDict(runpy.run_path(str(path))["get_config"]()).to_dict()
    except UserError as error:
        raise UserError(f"config file {path}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"config file {path} fails with {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)


def usage() -> str:
    """What `--help` prints without a config."""
    files = {str(file): first_line(file) for file in sorted(Path("configs").glob("*.py"))}
    parts = [
        "python -m must_jax.main --config=FILE [--workdir=FOLDER] [--config.KEY=VALUE]...",
        "--config=FILE         config file; with --help, its stage's keys are listed\n"
        "--workdir=FOLDER      folder of the run; by default runs/<name of the file>\n"
        "--config.KEY=VALUE    overrides any value of the config",
        f"VALUE\n{textwrap.indent(VALUES, '  ').rstrip()}",
        f"Stages (--config.stage)\n{_two_columns(abouts())}",
        f"Configs here\n{_two_columns(files)}" if files else "There is no folder configs here.",
        "All keys of all stages: docs/config.md",
    ]
    return "\n\n".join(parts)


def first_line(file: Path) -> str:
    """The first line of a Python file's docstring."""
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (OSError, ValueError, SyntaxError):
        text = ""
    return text.split("\n")[0]


def _two_columns(abouts: Mapping[str, str]) -> str:
    column = max(map(len, abouts)) + 4
    lines = [
        textwrap.wrap(about, HELP_WIDTH, initial_indent=f"  {name:<{column - 2}}", subsequent_indent=" " * column)
        or [f"  {name}"]
        for name, about in abouts.items()
    ]
    return "\n".join(line for each in lines for line in each)


def run(argv: Sequence[str]) -> None:
    """Runs the stage that the command line describes. Errors in it are reported before jax is loaded."""
    asks = any(argument in _HELP for argument in argv[1:])
    overrides = parse_flags([argument for argument in argv if argument not in _HELP])
    if not _CONFIG.value:
        if asks:
            print(usage())
            return
        raise UserError("--config=FILE is missing; configs/quickstart.py is the one to start with, --help lists more")
    file = Path(_CONFIG.value)
    values = before = read_config(file)
    for path, text in overrides:
        values = override(values, path, text)
    if asks:
        from must_jax import keys  # loads jax

        print(f"{first_line(file)}\n\n{keys.text(_as_run(values))}")
        return
    config = parse(values)
    check_other_data(before, values, [path for path, _ in overrides])
    workdir = Path(_WORKDIR.value or f"runs/{file.stem}")
    check_folder(workdir, f"--workdir={workdir}")
    if data_dir := getattr(config, "data_dir", None):
        check_folder(Path(data_dir).expanduser(), f"config.data_dir={data_dir}")

    is_run = config.is_run and not (isinstance(config, LabelConfig) and config.dry_run)
    try:
        preemption.watch()  # not earlier: from here on, signals are handled below
        STAGES[config.stage](config, workdir)
    except Preempted as stop:
        preemption.answered()
        if is_run:  # even if nothing was started: otherwise a launcher would take the run for finished
            make_folder(workdir)
            write_text(workdir / PREEMPTED_FILE, f"{stop}; the same command continues\n")
        raise
    if is_run:
        (workdir / PREEMPTED_FILE).unlink(missing_ok=True)


def _as_run(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a config; of a pipeline, its stages in the order in which they run, if that can be told."""
    from must_jax.planning.sequence import ordered

    with contextlib.suppress(UserError):
        if isinstance(config := parse(values), PipelineConfig):
            return {**values, "stages": {name: values["stages"][name] for name in ordered(config)}}
    return values


def main(argv: Sequence[str]) -> int:
    return cli.exit_code(lambda: run(argv))


def leave(code: int) -> NoReturn:
    """Ends this process.

    After an error or an interruption, jax may still be compiling in a thread: an orderly shutdown would wait for it, or
    crash. After another process has failed, jax would wait for the others, which may wait for this one.
    """
    jax = sys.modules.get("jax")
    if jax and code and not jax.distributed.is_initialized():
        _leave_at_once(code)
    if jax and code == cli.FAILED:
        stopping = threading.Thread(target=jax.distributed.shutdown, daemon=True)  # at once, if all of them end
        stopping.start()
        stopping.join(HEARD_WITHIN_S)
        _leave_at_once(code)
    if code != cli.INTERRUPTED and not preemption.interrupted():
        sys.exit(code)
    if jax:
        jax.distributed.shutdown()  # tells the others that this process has not died
    _leave_at_once(code)


def break_down() -> NoReturn:
    """Ends this process after an unexpected exception, with its traceback.

    In an orderly shutdown jax waits for the other processes, but the death of one of them may be the reason.
    """
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        raise
    traceback.print_exc()
    time.sleep(HEARD_WITHIN_S)
    _leave_at_once(1)


def _leave_at_once(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        code = main(sys.argv)
    except Exception:
        break_down()
    leave(code)
