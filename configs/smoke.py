"""The quick start in a few steps on a few dozen images: checks that everything runs; the models learn nothing.

Data: the `_tiny` variants of the built-in `scenes`. Expected: a complete report with meaningless figures.
Cost: at most 3 minutes on two cores, compilation included. Measured: 2:12 minutes.
"""

import json
import re

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    values = quickstart.get_config().to_dict()
    config = ConfigDict(json.loads(re.sub(r'"scenes/(\w+):', r'"scenes/\1_tiny:', json.dumps(values))))
    config.title = "must_jax smoke test"
    for stage in config.stages.values():
        if stage.stage == "train":
            stage.update(steps=4, batch_size=8, log_every=2, checkpoint_every=2)
            stage.optimizer.warmup_steps = 1
            stage.minimum = ConfigDict()
            stage.validation = ()
    # Otherwise the gate would refuse teachers that have not learnt and were not validated, and their labels.
    config.stages.label.accept_failed = config.stages.student.accept_failed = quickstart.TASKS
    config.stages.label.update(batch_size=16, shard_images=16, gallery_images=4)
    for transfer in config.stages.evaluate.transfers:
        transfer |= {
            "inits": ["scratch", "student"],
            "learning_rates": [0.1],
            "seeds": [0],
            "steps": 2,
            "batch_size": 8,
        }
        transfer["optimizer"]["warmup_steps"] = 1
    return config
