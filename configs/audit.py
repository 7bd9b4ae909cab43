"""Audits labels before a student is trained on them: statistics and a verdict for each column, and an HTML page.

Data: the columns of runs/label and their images, `scenes/unlabelled:train`; the six downstream test sets, which must
not share images with them.
Expected: runs/audit/audit.html and audit.json; each column's verdict in an audit.json beside its manifest. A student
refuses a column that failed: all labels empty, one class only, NaN, a teacher or labels near chance.
Cost: 15 seconds on one core (measured).

To audit a label run over your own photographs:
  python -m must_jax.main --config=configs/audit.py --workdir=runs/my_audit \
      --config.images=folder:PATH --config.columns=runs/my_photos --config.evaluation=my_dataset:test
For a large set, compute the statistics on a sample: --config.sample=20000.
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
