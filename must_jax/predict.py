"""The command that predicts on photographs: python -m must_jax.predict --model=runs/student PHOTOS [--maps=png]

PHOTOS are files, and folders, which are searched with their subfolders. For the photo sub/NAME.jpg of a folder it
writes, into the same subfolder of --out,

  NAME.png   the photo and the predictions of all tasks, side by side
  NAME.json  the five most likely classes, all boxes (y0, x0, y1, x1 in fractions of the image), the share of each class
             in the image, the range of depths, the mean normal

and with --maps the whole maps, at the photo's size, as maps/TASK/sub/NAME.png or .npy; what their values mean is in the
JSON. Photos in one folder whose names differ in the suffix alone keep it: NAME.jpg.json, NAME.tif.json.

The same command again goes on: photos whose JSON was written by the same model, for the photo as it is now, are not
predicted again; everything else is overwritten.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import posixpath
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np

from must_jax import cli, description
from must_jax.data import folders, map_files
from must_jax.data.kinds import MapLabel
from must_jax.data.map_files import FileFormat
from must_jax.errors import UserError, printable
from must_jax.files import check_folder, fitting_name, make_folder, writing
from must_jax.progress import Progress, counted, say
from must_jax.reading import read_json

if TYPE_CHECKING:  # jax is imported when the first photo is predicted, after all checks
    from must_jax.data.encodings import Label
    from must_jax.tasks.base import Task
    from must_jax.trained import Predicted

SKIPPED_FILE = "skipped.jsonl"  # photos that could not be read; .jsonl, as no photo's results are called
_NAMED = 10  # photos named at the end
_TITLE_PX, _GAP_PX = 28, 8
_PAPER, _INK = 255, (32, 32, 32)
_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class Photo(NamedTuple):
    """A photo, and the path of its results below --out, without suffix."""

    path: Path
    target: str


class Done(NamedTuple):
    """What became of a photo: why it could not be read, or pixels whose depth does not fit into a PNG."""

    photo: Photo
    error: str = ""
    beyond: int = 0


def run(
    arguments: Sequence[Path], model: Path, out: Path, maps: FileFormat | Literal[""] = "", batch_size: int = 16
) -> None:
    """Predicts on photos and folders of photos; the module's docstring says what is written.

    Args:
      maps: "png", "npy" or "" (no maps).

    Raises:
      UserError: no such photo, no photo in a folder, none that can be read, results that would overwrite a photo or
        each other, no finished run in `model`, a batch that does not fit into memory.
    """
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}, but must be at least 1")
    check_folder(out, f"--out={out}")
    photos = _photos(arguments, out)
    _check_targets(photos, out)
    told = description.read(model)
    if maps:
        _check_targets(photos, out, maps, told.tasks)
    state = functools.partial(_state, model=model, checksum=told.checksum, maps=maps)
    left = [photo for photo in photos if not _is_done(photo, out, state, maps)]
    if len(left) < len(photos):
        say(f"{len(photos) - len(left)} of {counted(len(photos), 'photo')} are done already")
    skipped: list[Done] = []
    beyond = 0
    if left:
        with Progress(f"predicting into {out}", len(left), "photos") as progress:
            for done in _predicted(left, model, out, maps, state, min(batch_size, len(left))):
                skipped += [done] if done.error else []
                beyond += done.beyond > 0
                progress.note(f"{len(skipped)} skipped" if skipped else "")
                progress.advance()
    _tell(photos, skipped, beyond, out)


def picture(
    tasks: Mapping[str, Task], image: np.ndarray, labels: Mapping[str, Label], title: str = "photo"
) -> np.ndarray:
    """A photo u8[H, W, 3] and its predictions, drawn by their tasks, side by side: u8[h, w, 3]."""
    from must_jax.tasks.drawing import canvas

    return side_by_side({title: canvas(image)} | {name: tasks[name].draw(image, each) for name, each in labels.items()})


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
        prog="python -m must_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTOS")
    parser.add_argument("--model", required=True, type=Path, help="folder of a finished run, such as runs/student")
    parser.add_argument("--out", default=Path("predictions"), type=Path, help="folder to write to (%(default)s)")
    parser.add_argument("--maps", default="", choices=("png", "npy"), help="write whole maps, too")
    parser.add_argument("--batch_size", default=16, type=int, help="images at a time (%(default)s)")
    known = parser.parse_args(argv[1:])
    return cli.exit_code(lambda: run(known.photos, known.model, known.out, known.maps, known.batch_size))


def _photos(arguments: Sequence[Path], out: Path) -> list[Photo]:
    """The photos that are meant, each once."""
    found: dict[str, tuple[Path, str]] = {}  # by real path
    for argument in arguments:
        if argument.is_dir():
            listed = [(argument / name, name) for name in _listed(argument, out)]
        elif not os.path.lexists(argument):
            raise UserError(f"there is no photo {argument}; check its path")
        elif not argument.is_file():
            raise UserError(f"{argument} is not a readable file; name a photo")
        else:
            listed = [(argument, argument.name)]
        for path, name in listed:
            found.setdefault(_real(path), (path, name))
    sharing: defaultdict[str, set[str]] = defaultdict(set)  # names without suffix -> names
    for _, name in found.values():
        sharing[_stem(name).casefold()].add(name.casefold())  # as macOS and Windows compare names
    photos = []
    for path, name in found.values():
        folder, last = posixpath.split(name if len(sharing[_stem(name).casefold()]) > 1 else _stem(name))
        photos.append(Photo(path, posixpath.join(folder, fitting_name(last, ".json").removesuffix(".json"))))
    return photos


def _stem(name: str) -> str:
    folder, last = posixpath.split(name)
    return posixpath.join(folder, Path(last).stem)


def _listed(folder: Path, out: Path) -> list[str]:
    """The paths of a folder's images, without earlier results."""
    inside = os.path.relpath(os.path.realpath(out), os.path.realpath(folder))
    if inside == ".":
        raise UserError(f"the results would lie among the photos of {folder}; choose another folder with --out")
    listing = folders.list_folder(folder)
    if left_out := folders.told([*(folders.LeftOut(*each) for each in listing.skipped), *listing.hidden]):
        say(f"{folder}: {left_out}")
    names = [name for name, _ in listing.images if not name.startswith(f"{inside}/")]
    if not names:
        raise UserError(f"{folder} has no images; name another folder")
    return names


def _real(path: Path) -> str:
    return os.path.join(_real_folder(path.parent), path.name)


@functools.lru_cache
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


def _check_targets(photos: Sequence[Photo], out: Path, maps: str = "", tasks: Iterable[str] = ()) -> None:
    """Raises UserError if a result would overwrite a photo, or two photos have a result in common."""
    sources = {_real(photo.path): photo.path for photo in photos}
    seen: set[str] = set()
    for photo in photos:
        for path in _results(photo, out, maps, tasks):
            if source := sources.get(_real(path)):
                raise UserError(f"the result would overwrite {source}; choose another folder with --out")
            if (key := str(path).casefold()) in seen:
                raise UserError(
                    f"two photos would both become {path}; rename one, predict them one at a time, or name the folder "
                    "that holds both"
                )
            seen.add(key)


def _results(photo: Photo, out: Path, maps: str, names: Iterable[str]) -> list[Path]:
    """All files of a photo. `names`: of its maps."""
    return [out / f"{photo.target}.json", _picture(photo, out), *(_map(photo, out, maps, name) for name in names)]


def _picture(photo: Photo, out: Path) -> Path:
    return out / f"{photo.target}.png"  # not `with_suffix`: "..png" has none


def _map(photo: Photo, out: Path, maps: str, name: str) -> Path:
    return out / "maps" / name / f"{photo.target}.{maps}"


def _state(photo: Photo, model: Path, checksum: str, maps: str) -> dict[str, Any]:
    """What results are made from, and how."""
    stat = photo.path.stat()
    return {
        "photo": printable(str(photo.path)),
        "photo_bytes": stat.st_size,
        "photo_modified_ns": stat.st_mtime_ns,
        "model": printable(str(model)),
        "model_checksum": checksum,
        "map_format": maps,
    }


def _is_done(photo: Photo, out: Path, state: Callable[[Photo], dict[str, Any]], maps: str) -> bool:
    """Whether the JSON, which is written last, is there, belongs to this state, and no file is missing."""
    target = out / f"{photo.target}.json"
    with suppress(UserError, OSError):
        if target.is_file():
            told = read_json(target, dict[str, Any], "")
            named = told.get("maps", {})
            return told.items() >= state(photo).items() and all(
                file.is_file() for file in _results(photo, out, maps, named)
            )
    return False


def _predicted(
    photos: Sequence[Photo],
    model: Path,
    out: Path,
    maps: FileFormat | Literal[""],
    state: Callable[[Photo], dict[str, Any]],
    batch_size: int,
) -> Iterator[Done]:
    import jax

    from must_jax import trained
    from must_jax.data.decoding import decode_image, decode_reduced
    from must_jax.engine.mesh import make_mesh
    from must_jax.stages import memory
    from must_jax.tasks.drawing import LARGEST_PX

    loaded = trained.load(model, make_mesh(min(batch_size, jax.local_device_count()), devices=jax.local_devices()))
    memory.check_batch(batch_size, loaded.image_size, "--batch_size")

    def use(photo: Photo, predicted: trained.Predicted | Exception) -> Done:
        if isinstance(predicted, Exception):
            return Done(photo, _reason(predicted))
        try:
            # Read again, smaller: full pictures of all photos that are under way would take much memory.
            image, _ = decode_reduced(photo.path.read_bytes(), LARGEST_PX)
            made = state(photo)
        except (UserError, OSError) as error:
            return Done(photo, _reason(error))
        return _written(photo, loaded.tasks, image, predicted, out, maps, made)

    make_folder(out)
    yield from loaded.each(photos, lambda photo: decode_image(photo.path.read_bytes()), use, batch_size)


def _written(
    photo: Photo,
    tasks: Mapping[str, Task],
    image: np.ndarray,
    predicted: Predicted,
    out: Path,
    maps: FileFormat | Literal[""],
    state: Mapping[str, Any],
) -> Done:
    """Writes the results of one photo, the JSON last."""
    drawn = picture(tasks, image, predicted.labels, photo.path.name)
    _write(_picture(photo, out), cv2.imencode(".png", drawn[..., ::-1], _FAST)[1].tobytes())
    about: dict[str, Any] = {}
    for task, label in predicted.labels.items():
        kind = tasks[task].label
        if maps and isinstance(kind, MapLabel):
            for name, (data, meaning) in map_files.encode(task, kind, label, maps).items():
                _write(_map(photo, out, maps, name), data)
                about[name] = {"file": printable(str(_map(photo, Path(), maps, name))), **meaning}
    answer = {
        **state,
        "image_hw": predicted.image_hw,
        "predictions": {name: tasks[name].describe(label) for name, label in predicted.labels.items()},
        "picture": printable(str(_picture(photo, Path()))),
        "maps": about,
    }
    _write(out / f"{photo.target}.json", (json.dumps(answer, indent=2) + "\n").encode())
    return Done(photo, beyond=sum(each.get("beyond", 0) for each in about.values()))


def _write(path: Path, data: bytes) -> None:
    """Replaces a file in one step. Not synced to disk: after a crash of the machine, predict again."""
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


def _tell(photos: Sequence[Photo], skipped: Sequence[Done], beyond: int, out: Path) -> None:
    """Says what there is; raises UserError if that is nothing."""
    log = out / SKIPPED_FILE
    if len(skipped) == len(photos):
        photo, reason, _ = skipped[0]
        raise UserError(f"{counted(len(photos), 'photo')}, but none can be read; {photo.path}: {reason}")
    for photo, reason, _ in skipped[:_NAMED]:
        say(printable(f"skipped {photo.path}: {reason}"))
    if skipped:
        lines = ({"photo": printable(str(done.photo.path)), "reason": printable(done.error)} for done in skipped)
        _write(log, "".join(json.dumps(line) + "\n" for line in lines).encode())
        say(f"skipped {counted(len(skipped), 'photo')} of {len(photos)}, listed in {log}")
    else:
        log.unlink(missing_ok=True)
    if beyond:
        say(
            f"{counted(beyond, 'photo')} have depths beyond {map_files.FARTHEST_M} m, which are 0 in 16-bit PNGs; "
            "--maps=npy keeps them"
        )
    unread = {done.photo for done in skipped}
    example = next(photo for photo in photos if photo not in unread)
    say(printable(f"{counted(len(photos) - len(skipped), 'photo')}, e.g. {example.path} -> {_picture(example, out)}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
