"""Images as users have them: photos in a folder, tar files, Parquet files, a TFDS dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from must_jax.data.raw.base import Item, RawImages
from must_jax.data.raw.folder import Folder
from must_jax.data.raw.parquet import Parquet
from must_jax.data.raw.tar import Tar
from must_jax.data.raw.tfds import Tfds
from must_jax.errors import UserError, nearest

__all__ = ["Item", "RawImages", "open_raw"]

_SCHEMES = ("folder", "tar", "parquet", "tfds")


def open_raw(spec: str, data_dir: Path, column: str = "", endings: Sequence[str] = ()) -> RawImages:
    """Opens "folder:PATH", "tar:FILES", "parquet:FILES" or "tfds:NAME/CONFIG:SPLIT". Reads no image.

    Args:
      spec: FILES are a file, a folder, or a pattern with *.
      data_dir: where TFDS datasets live.
      column: the column of Parquet files with the images; "" = the only one that holds bytes.
      endings: the endings of images in folders and tar files; () = all pictures of a folder, and those of a tar file
        that `samples.choose` picks.

    Raises:
      UserError: nothing is there, or there is no such kind of source (names the nearest). What is wrong inside tar and
        Parquet files is only found when they are listed, on the first use of the length or the items.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise UserError(f"images='{spec}' must be 'folder:PATH', 'tar:FILES', 'parquet:FILES' or 'tfds:NAME:SPLIT'")
    match scheme:
        case "folder":
            return Folder(spec, rest, endings)
        case "tar":
            return Tar(spec, rest, endings)
        case "parquet":
            return Parquet(spec, rest, column)
        case "tfds":
            return Tfds(rest, data_dir)
    raise UserError(f"images='{spec}': '{scheme}' is not a kind of source; {nearest(scheme, _SCHEMES)}")
