"""Your own images become an image set once: checked, of any size and number, their bytes unchanged.

Data: yours, in one of four layouts, --config.images=
  folder:PATH              a tree of JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000 files
  tar:FILES                tar files, as of WebDataset; not compressed ones. FILES: a file, a folder, or 'PATH/*.tar'.
                           Of a sample with several pictures the image is the one with a mere suffix (.jpg beside
                           .seg.png), or as --config.image_suffix says
  parquet:FILES            Parquet files in the Hugging Face layout; --config.image_column where several hold bytes;
                           named by the path beside the bytes where each row has its own, else FILE/ROW, as labels
                           must name them then
  tfds:NAME/CONFIG:SPLIT   a TFDS dataset in ArrayRecord under data_dir; other stages read it by its name as well
Hidden files and folders, and those of systems and viewers (@eaDir, __MACOSX, $RECYCLE.BIN, thumbnails), are left out.
Expected: the TFDS dataset data/photos/1.0.0, with skipped.json, which says what is not in it and why. From then on:
  python -m must_jax.main --config=configs/label.py --config.images=photos:train --config.teachers=...
Labels that people have come along, and are read as "truth" by the other stages (docs/label_store.md, True labels), e.g.
  --config.labels.detection.format=coco --config.labels.detection.path=instances.json
Any number of sets, each with its --config.name; nothing is written into a workdir. A set that was stopped goes on with
the same command. Cost: 34 ms of a core for a JPEG of 12 megapixels (measured).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"stage": "prepare", "name": "photos", "images": "folder:photos"})
