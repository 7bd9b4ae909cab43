"""Looks at labels before a student learns them: what each column holds, a verdict on each, and a page to look at.

Data: the columns of runs/label and their images, `scenes/unlabelled:train`; the six downstream test sets, which must
not have images in common with them.
Expected: runs/audit/audit.html and audit.json; beside each column's manifest its verdict, audit.json. A student refuses
a column that failed: all labels empty, one class only, NaN, a teacher or labels near chance.
Cost: 15 seconds of one core (measured).

Another label run, of your own photographs:
  python -m must_jax.main --config=configs/audit.py --workdir=runs/my_audit \
      --config.images=folder:PATH --config.columns=runs/my_photos --config.evaluation=my_dataset:test
Of a large set, statistics of a sample: --config.sample=20000.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "stage": "audit",
            "data_dir": "data",
            "images": "scenes/unlabelled:train",
            "columns": ("runs/label",),
            "evaluation": tuple(f"scenes/downstream_{name}:test" for name in quickstart.DOWNSTREAM),
            "duplicate_distance": 48,
            "sample": 0,
        }
    )
