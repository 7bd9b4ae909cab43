"""Images in a tree of files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from must_jax.data import folders
from must_jax.data.folders import printable
from must_jax.data.raw import samples
from must_jax.data.raw.base import BY_SUFFIX, Item
from must_jax.errors import UserError


class Folder:
    """See RawImages; names are paths relative to the folder.

    Args:
      endings: endings of the files that are images; () = all pictures.
    """

    named_by: Literal[""] = ""
    unread: tuple[str, ...] = ()
    called = ""

    def __init__(self, spec: str, path: str, endings: Sequence[str]) -> None:
        self._folder = Path(path).expanduser()
        if not self._folder.is_dir():
            raise UserError(f"images='{spec}': there is no folder {path}; name a folder with photos")
        listing = folders.list_folder(self._folder)
        chosen, others = samples.choose([name for name, _ in listing.images], endings, spec, by_sample=False)
        images = list(itertools.compress(listing.images, chosen))
        self.digest = folders.digest(images)
        self.size_bytes = sum(size for _, size in images)
        self.others = listing.others
        self.left_out = [each._replace(name=printable(each.name)) for each in (*listing.hidden, *others)]
        self.skipped = [(printable(name), reason) for name, reason in listing.skipped]
        self._images, taken = [], set()
        for name, size in images:
            if (shown := printable(name)) in taken:  # only if a name has bytes that are not text
                self.skipped.append((shown, "another image has this name"))
            else:
                taken.add(shown)
                self._images.append((name, size))

    @property
    def images_are(self) -> str:
        for scheme in ("tar", "parquet"):
            if archives := folders.files_below(self._folder, (f".{scheme}",)):
                return f"{BY_SUFFIX}; for those in {archives[0]} and the like, set images='{scheme}:{self._folder}'"
        return BY_SUFFIX

    def names(self) -> list[str]:
        return [printable(name) for name, _ in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def items(self, positions: range) -> Iterator[Item]:
        for name, size in self._images[positions.start : positions.stop]:
            yield Item(printable(name), size, (self._folder / name).read_bytes)
