"""Imports your own images, of any size and number, as an image set. Every image is checked and its bytes are kept.

Data: yours, in one of four layouts, --config.images=
  folder:PATH              a tree of JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000 files
  tar:FILES                uncompressed tar files, e.g. WebDataset. FILES: a file, a folder, or 'PATH/*.tar'. If a
                           sample has several pictures, the one with a plain suffix is the image (.jpg rather than
                           .seg.png), unless --config.image_suffix selects another
  parquet:FILES            Parquet files in the Hugging Face layout. If several columns hold bytes, choose one with
                           --config.image_column. Images are named by the path beside the bytes if each row has its
                           own, otherwise FILE/ROW; labels must use the same names
  tfds:NAME/CONFIG:SPLIT   a TFDS dataset in ArrayRecord under data_dir; other stages can also read it directly by name
Hidden files and folders, and those of systems and viewers (@eaDir, __MACOSX, $RECYCLE.BIN, thumbnails), are skipped.
Expected: the TFDS dataset data/photos/1.0.0, with skipped.json, which lists what was skipped and why. Then use it:
  python -m must_jax.main --config=configs/label.py --config.images=photos:train --config.teachers=...
Existing annotations can be imported as well; other stages read them as "truth" (docs/label_store.md, True labels):
  --config.labels.detection.format=coco --config.labels.detection.path=instances.json
A set is in the order of its source; with --config.shuffle=true in a random one, so that photos:train[:90%] is a sample.
You can prepare any number of sets, each with its own --config.name; nothing is written to a workdir. The same command
resumes an interrupted import. Cost: 34 ms of one core per 12-megapixel JPEG (measured).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"stage": "prepare", "name": "photos", "images": "folder:photos"})
