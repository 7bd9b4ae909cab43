"""The command that predicts on photographs: python -m must_jax.predict --model=runs/student PHOTOS [--maps=png]

PHOTOS are files, and folders, which are searched with their subfolders. For the photo sub/NAME.jpg of a folder it
writes, into the same subfolder of --out,

  NAME.png   the photo and the predictions of all tasks, side by side
  NAME.json  the five most likely classes, all boxes (y0, x0, y1, x1 in fractions of the image), the share of each class
             in the image, the range of depths, the mean normal

and predictions.jsonl, the JSON of all photos, a line each, in their order. With --pictures=no, it writes only that: for
very many photos. Until all are predicted, the lines are in predictions.jsonl.part.

With --maps it also writes the whole maps, at the photo's size, as maps/TASK/sub/NAME.png or .npy; what their values
mean is in the JSON. With --features=pooled or maps it writes NAME.npz, the features of the backbone's --levels: a
vector for each, or a map of the network's input, in whose top left corner the photo lies. Photos in one folder
whose names differ in the suffix alone keep it: NAME.jpg.json, NAME.tif.json. docs/predict.md describes all files.

What is shown follows the options of the tasks, which docs/config.md lists. To see less likely boxes as well, at most
ten of them, and ten classes:

  --tasks.detection.score_threshold=0.2 --tasks.detection.max_detections=10 --tasks.classification.top_k=10

The same command again goes on: photos whose JSON (with --pictures=no: line) was written by the same model and options,
for the photo as it is now, are not predicted again; everything else is overwritten.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np

from must_jax import cli, description
from must_jax.data import map_files
from must_jax.data.kinds import MapLabel
from must_jax.data.kinds.values import FARTHEST_M
from must_jax.data.map_files import FileFormat
from must_jax.errors import UserError, printable
from must_jax.files import check_folder, make_folder, writing
from must_jax.parsing import override
from must_jax.predicting.lines import Lines
from must_jax.predicting.photos import Photo, find, real
from must_jax.progress import Progress, counted, say
from must_jax.reading import read_json

if TYPE_CHECKING:  # jax is imported when the first photo is predicted, after all checks
    from must_jax.data.kinds import Label
    from must_jax.tasks.base import Task
    from must_jax.trained import Predicted

LINES_FILE = "predictions.jsonl"  # .jsonl, as no photo's results are called
SKIPPED_FILE = "skipped.jsonl"  # photos that could not be read
_NAMED = 10  # photos named at the end
_TITLE_PX, _GAP_PX = 28, 8
_TASKS = "--tasks."
_PAPER, _INK = 255, (32, 32, 32)
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class Done(NamedTuple):
    """What became of a photo.

    Attributes:
      answer: its JSON.
      error: why it could not be read.
      beyond: pixels whose depth does not fit into a PNG.
      empty: what found nothing: a task, and the option with its value that would show more, if there is one.
    """

    photo: Photo
    answer: Mapping[str, Any] | None = None
    error: str = ""
    beyond: int = 0
    empty: tuple[str, ...] = ()


@dataclass
class Tally:
    """What became of all photos of a call.

    Attributes:
      beyond: photos with depths that do not fit into a PNG.
      empty: what found nothing -> on how many photos.
    """

    skipped: list[Done] = field(default_factory=list)
    beyond: int = 0
    empty: Counter[str] = field(default_factory=Counter)

    def add(self, done: Done) -> None:
        self.skipped += [done] if done.error else []
        self.beyond += done.beyond > 0
        self.empty.update(done.empty)


@dataclass(frozen=True)
class Wishes:
    """What to write about each photo, besides a line of JSON.

    Attributes:
      pictures: whether a picture, and a file with the JSON.
      maps: format of whole maps; "" = none.
      features: of the backbone, for each photo a vector ("pooled") or a map; "" = none.
      levels: of the features, see `Trained.features`.
      options: task -> options instead of the model's own.
    """

    pictures: bool = True
    maps: FileFormat | Literal[""] = ""
    features: Literal["", "pooled", "maps"] = ""
    levels: tuple[str, ...] = ("c5",)
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What the photo's JSON says about them."""
        return {
            "map_format": self.maps,
            "feature_format": self.features,
            "feature_levels": [*self.levels] if self.features else [],
            "options": dict(self.options),
        }


PLAIN = Wishes()


def run(arguments: Sequence[Path], model: Path, out: Path, wishes: Wishes = PLAIN, batch_size: int = 16) -> None:
    """Predicts on photos and folders of photos; the module's docstring says what is written.

    Raises:
      UserError: no such photo, no photo in a folder, none that can be read, results that would overwrite a photo or
        each other, no finished run in `model`, an unknown level or option, a batch that does not fit into memory.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}, but must be at least 1")
    check_folder(out, f"--out={out}")
    photos = find(arguments, out)
    _check_targets(photos, out)
    told = description.read(model)
    if wishes.maps or wishes.features:
        _check_targets(photos, out, wishes, told.tasks)
    state = functools.partial(_state, model=model, checksum=told.checksum, wishes=wishes)
    names = [printable(photo.target) for photo in photos]

    def is_valid(number: int, told: Mapping[str, Any]) -> bool:
        return _is_valid(told, photos[number], out, state, wishes)

    with Lines(out / LINES_FILE, names, is_valid) as lines:
        left = []
        for name, photo in zip(names, photos, strict=True):
            answer = _told(photo, out, state, wishes) if wishes.pictures else None
            if answer is not None and name not in lines:
                lines.add(name, answer)
            if name not in lines or (wishes.pictures and answer is None):
                left.append(photo)
        if len(left) < len(photos):
            say(f"{len(photos) - len(left)} of {counted(len(photos), 'photo')} are done already")
        tally = Tally()
        if left:
            with Progress(f"predicting into {out}", len(left), "photos") as progress:
                for done in _predicted(left, model, out, wishes, state, min(batch_size, len(left))):
                    if done.answer is not None:
                        lines.add(printable(done.photo.target), done.answer)
                    tally.add(done)
                    progress.note(f"{len(tally.skipped)} skipped" if tally.skipped else "")
                    progress.advance()
        lines.finish()
    _tell(photos, len(left), tally, out, wishes)


def picture(
    tasks: Mapping[str, Task], image: np.ndarray, labels: Mapping[str, Label], title: str = "photo"
) -> np.ndarray:
    """A photo u8[H, W, 3] and its predictions, drawn by their tasks, side by side: u8[h, w, 3]."""
    from must_jax.tasks.drawing import canvas

    panels = {title: canvas(image)}
    for name, label in labels.items():
        found = "" if not tasks[name].label.is_empty(label) else ": nothing found"
        panels[f"{name}{found}"] = tasks[name].draw(image, label)
    return side_by_side(panels)


def side_by_side(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Titled u8[h, w, 3] pictures of about one size, in rows of three -> one picture u8[H, W, 3]."""
    from must_jax.tasks.drawing import write

    height = max(panel.shape[0] for panel in panels.values()) + _TITLE_PX + _GAP_PX
    width = max(panel.shape[1] for panel in panels.values()) + _GAP_PX
    columns = min(3, len(panels))
    sheet = np.full((-(-len(panels) // columns) * height, columns * width, 3), _PAPER, np.uint8)
    for place, (title, panel) in enumerate(panels.items()):
        y, x = place // columns * height, place % columns * width
        write(sheet[:, : x + width], title, (x + 4, y + 20), 0.6, _INK)
        sheet[y + _TITLE_PX : y + _TITLE_PX + panel.shape[0], x : x + panel.shape[1]] = panel
    return sheet


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m must_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", required=True, type=Path, help="folder of a finished run, such as runs/student")
    parser.add_argument("--out", default=Path("predictions"), type=Path, help="folder to write to (%(default)s)")
    parser.add_argument("--pictures", default="yes", choices=("yes", "no"), help="no: JSON lines alone (%(default)s)")
    parser.add_argument("--maps", default="", choices=("png", "npy"), help="write whole maps, too")
    parser.add_argument("--batch_size", default=16, type=int, help="images at a time (%(default)s)")
    parser.add_argument("--features", default="", choices=("pooled", "maps"), help="write the backbone's features, too")
    parser.add_argument("--levels", help="of the features: c2 to c5, p3 to p7 (c5)")
    known, rest = parser.parse_known_intermixed_args(argv[1:])

    def command() -> None:
        levels = PLAIN.levels if known.levels is None else tuple(known.levels.split(","))
        if known.levels is not None and not known.features:
            raise UserError(f"--levels={known.levels} is of features; add --features=pooled or --features=maps")
        wishes = Wishes(known.pictures == "yes", known.maps, known.features, levels, _options(rest))
        run(known.photos, known.model, known.out, wishes, known.batch_size)

    return cli.exit_code(command)


def _options(arguments: Iterable[str]) -> dict[str, Any]:
    """The options of tasks among the arguments, --tasks.TASK.OPTION=VALUE: task -> option -> value.

    Raises:
      UserError: an argument is no such option.
    """
    options: dict[str, Any] = {}
    for argument in arguments:
        path, equals, text = argument.removeprefix(_TASKS).partition("=")
        if not (argument.startswith(_TASKS) and equals and "." in path):
            raise UserError(f"{argument} is unknown; --help lists the flags, and options are {_TASKS}TASK.OPTION=VALUE")
        options = override(options, path, text)
    return options


def _check_targets(photos: Sequence[Photo], out: Path, wishes: Wishes = PLAIN, tasks: Iterable[str] = ()) -> None:
    """Raises UserError if a result would overwrite a photo, or two photos have a result in common."""
    sources = {real(photo.path): photo.path for photo in photos}
    seen: set[str] = set()
    for photo in photos:
        for path in _results(photo, out, wishes, tasks):
            if source := sources.get(real(path)):
                raise UserError(f"the result would overwrite {source}; choose another folder with --out")
            if (key := path.casefold()) in seen:
                raise UserError(
                    f"two photos would both become {path}; rename one, predict them one at a time, or name the folder "
                    "that holds both"
                )
            seen.add(key)


def _results(photo: Photo, out: Path, wishes: Wishes, names: Iterable[str]) -> list[str]:
    """All files of a photo. `names`: of its maps."""
    both = [_json(photo, out), _picture(photo, out)] if wishes.pictures else []
    maps = [_map(photo, out, wishes.maps, name) for name in names] if wishes.maps else []
    features = [_features(photo, out)] if wishes.features else []
    return [*both, *maps, *features]


def _json(photo: Photo, out: Path) -> str:
    return os.path.join(out, f"{photo.target}.json")


def _picture(photo: Photo, out: Path | str) -> str:
    return os.path.join(out, f"{photo.target}.png")


def _map(photo: Photo, out: Path | str, maps: str, name: str) -> str:
    return os.path.join(out, "maps", name, f"{photo.target}.{maps}")


def _features(photo: Photo, out: Path | str) -> str:
    return os.path.join(out, f"{photo.target}.npz")


def _state(photo: Photo, model: Path, checksum: str, wishes: Wishes) -> dict[str, Any]:
    """What results are made from, and how."""
    stat = os.stat(photo.path)
    return {
        "photo": printable(photo.path),
        "photo_bytes": stat.st_size,
        "photo_modified_ns": stat.st_mtime_ns,
        "model": printable(str(model)),
        "model_checksum": checksum,
        **wishes.as_json(),
    }


def _is_valid(
    told: Mapping[str, Any], photo: Photo, out: Path, state: Callable[[Photo], dict[str, Any]], wishes: Wishes
) -> bool:
    """Whether what was told about a photo belongs to this state, and no file is missing."""
    with suppress(OSError):
        files = _results(photo, out, wishes, told.get("maps", {}))
        return told.items() >= state(photo).items() and all(map(os.path.isfile, files))
    return False


def _told(photo: Photo, out: Path, state: Callable[[Photo], dict[str, Any]], wishes: Wishes) -> dict[str, Any] | None:
    """The photo's JSON, which is written last, if it is there and still valid."""
    target = Path(_json(photo, out))
    with suppress(UserError, OSError):
        if target.is_file() and _is_valid(told := read_json(target, dict[str, Any], ""), photo, out, state, wishes):
            return told
    return None


def _predicted(
    photos: Sequence[Photo],
    model: Path,
    out: Path,
    wishes: Wishes,
    state: Callable[[Photo], dict[str, Any]],
    batch_size: int,
) -> Iterator[Done]:
    import jax

    from must_jax import trained
    from must_jax.data.decoding import decode_image, decode_reduced
    from must_jax.engine.mesh import make_mesh
    from must_jax.inputs import memory
    from must_jax.models.api import check_levels
    from must_jax.tasks.drawing import LARGEST_PX

    check_levels(wishes.levels)
    loaded = trained.load(model, make_mesh(min(batch_size, jax.local_device_count()), devices=jax.local_devices()))
    loaded = loaded.with_options(wishes.options)
    memory.check_batch(batch_size, loaded.input_hw, "--batch_size")

    def use(photo: Photo, predicted: trained.Predicted | Exception) -> Done:
        if isinstance(predicted, Exception):
            return Done(photo, error=_reason(predicted))
        try:
            made = state(photo)
            if wishes.pictures:
                # Read again, smaller: full pictures of all photos that are under way would take much memory.
                image, _ = decode_reduced(photo.read(), LARGEST_PX)
        except (UserError, OSError) as error:
            return Done(photo, error=_reason(error))
        if wishes.pictures:
            drawn = picture(loaded.tasks, image, predicted.labels, photo.name)
            _write(_picture(photo, out), cv2.imencode(".png", drawn[..., ::-1], _FAST)[1].tobytes())
        return _written(photo, loaded.tasks, predicted, out, wishes, made)

    make_folder(out)
    wanted = trained.Wanted(wishes.levels if wishes.features else (), pooled=wishes.features == "pooled")
    yield from loaded.each(photos, lambda photo: decode_image(photo.read()), use, batch_size, wanted)


def _written(
    photo: Photo,
    tasks: Mapping[str, Task],
    predicted: Predicted,
    out: Path,
    wishes: Wishes,
    state: Mapping[str, Any],
) -> Done:
    """Writes the results of one photo besides its picture, the JSON last."""
    maps = {
        name: about
        for task, label in predicted.labels.items()
        if wishes.maps and isinstance(kind := tasks[task].label, MapLabel)
        for name, about in _write_maps(photo, out, map_files.encode(task, kind, label, wishes.maps), wishes.maps)
    }
    answer = {
        **state,
        "image_hw": predicted.image_hw,
        "predictions": {name: tasks[name].describe(label) for name, label in predicted.labels.items()},
        **({"picture": printable(_picture(photo, ""))} if wishes.pictures else {}),
        "maps": maps,
        "features": _write_features(photo, out, predicted, wishes) if wishes.features else {},
    }
    if wishes.pictures:
        _write(_json(photo, out), (json.dumps(answer, indent=2) + "\n").encode())
    empty = [tasks[name] for name, label in predicted.labels.items() if tasks[name].label.is_empty(label)]
    return Done(
        photo,
        answer,
        beyond=sum(about.get("beyond", 0) for about in maps.values()),
        empty=tuple(task.name + (f".{task.asks}={getattr(task, task.asks):g}" if task.asks else "") for task in empty),
    )


def _write_maps(
    photo: Photo, out: Path, files: Mapping[str, map_files.MapFile], suffix: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writes them; yields their names, and what the photo's JSON says about each."""
    for name, (data, meaning) in files.items():
        _write(_map(photo, out, suffix, name), data)
        yield name, {"file": printable(_map(photo, "", suffix, name)), **meaning}


def _write_features(photo: Photo, out: Path, predicted: Predicted, wishes: Wishes) -> dict[str, Any]:
    """Returns what the photo's JSON says about them."""
    from must_jax.models.api import STRIDES

    arrays: dict[str, Any] = dict(predicted.features)
    if wishes.features == "maps":
        arrays["content"] = np.array(predicted.content, np.float32)
    np.savez(stream := io.BytesIO(), **arrays)
    _write(_features(photo, out), stream.getvalue())
    strides = {level: STRIDES[level] for level in wishes.levels}
    return {"file": printable(_features(photo, "")), "strides": strides, "content": predicted.content}


def _write(file: Path | str, data: bytes) -> None:
    """Replaces a file in one step. Not synced to disk: after a crash of the machine, predict again."""
    path = Path(file)
    make_folder(path.parent)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    with writing(path):
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _tell(photos: Sequence[Photo], predicted: int, tally: Tally, out: Path, wishes: Wishes) -> None:
    """Says what there is; raises UserError if that is nothing. `predicted`: how many photos this call was about."""
    log, skipped = out / SKIPPED_FILE, tally.skipped
    if len(skipped) == len(photos):
        first = skipped[0]
        raise UserError(f"{counted(len(photos), 'photo')}, but none can be read; {first.photo.path}: {first.error}")
    for done in skipped[:_NAMED]:
        say(printable(f"skipped {done.photo.path}: {done.error}"))
    if skipped:
        lines = ({"photo": printable(done.photo.path), "reason": printable(done.error)} for done in skipped)
        _write(log, "".join(json.dumps(line) + "\n" for line in lines).encode())
        say(f"skipped {counted(len(skipped), 'photo')} of {len(photos)}, listed in {log}")
    else:
        log.unlink(missing_ok=True)
    for what, count in tally.empty.items():
        name, _, option = what.partition(".")
        more = f", with {option}; a lower {_TASKS}{what.partition('=')[0]} shows what is less sure" if option else ""
        say(f"{name} found nothing on {count} of {counted(predicted - len(skipped), 'photo')}{more}")
    if tally.beyond:
        say(
            f"{counted(tally.beyond, 'photo')} have depths beyond {FARTHEST_M} m, which are 0 in 16-bit "
            "PNGs; --maps=npy keeps them"
        )
    unread = {done.photo for done in skipped}
    example = next(photo for photo in photos if photo not in unread)
    pictures = f", e.g. {example.path} -> {_picture(example, out)}" if wishes.pictures else ""
    say(printable(f"{counted(len(photos) - len(skipped), 'photo')} in {out / LINES_FILE}{pictures}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
