"""Inspects label columns: describes them and their provenance, or verifies that every file and label is intact.

Data: the columns of runs/label; for others, --config.columns=FOLDER,FOLDER (columns or label runs).
  python -m must_jax.main --config=configs/labels.py --config.action=describe
  python -m must_jax.main --config=configs/labels.py --config.action=verify
Expected: a table. If `verify` finds damage, it prints one line for each problem and exits with code 2.
With --config.images=scenes/unlabelled:train `verify` also compares the image names and their order.
Cost: seconds. `verify` reads every label once.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"stage": "labels", "action": "describe", "data_dir": "data", "columns": ("runs/label",)})
