"""The scorecard: compares scratch, each teacher and the student as starting points for six held-out tasks.

Data: the six `scenes/downstream_*` sets (shapes, textures and cameras that no other set has; few labels) and the
finished runs runs/teacher_*, runs/student. Heads are always new. Learning rates are chosen on the validation split;
reported values are from the test split.
Expected: runs/evaluate/scorecard.json and .csv, frozen and fine-tuned, three seeds. Cost: 9 minutes on two
cores (measured). Figures: README.

To add a starting point: --config.inits.mine=runs/mine.
The paper fine-tunes for 5,000 to 80,000 steps of 32 to 512 images at 256 to 1,024 pixels, with learning
rates from 0.005 to 0.32 (as far as its recipe is known; not run here).
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    return quickstart.evaluate("runs")
