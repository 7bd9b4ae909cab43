"""Looks at label columns: what they are and who made them, or whether every file and label is as it was written.

Data: the columns of runs/label; any others with --config.columns=FOLDER,FOLDER (a column's, or a label run's).
  python -m must_jax.main --config=configs/labels.py --config.action=describe
  python -m must_jax.main --config=configs/labels.py --config.action=verify
Expected: a table; for `verify` also one line for each damage, and then exit code 2.
With --config.images=scenes/unlabelled:train it also compares the order of the images, name by name.
Cost: seconds. `verify` reads every label once.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"stage": "labels", "action": "describe", "data_dir": "data", "columns": ("runs/label",)})
