"""A backbone that learns from images alone, by SimCLR (Chen et al. 2020): a start for teachers and students.

Data: `scenes/unlabelled:train`, of which a tenth is held out. For your own photos, which need no labels:
  --config.train.0.images=folder:my_photos --config.validation=none
Expected: among the images that are held out, `simclr/top1` (percent whose two views find each other) rises far above
`simclr/chance`. Start others from it with --config.init=runs/simclr (docs/models.md).
Cost: 4,000 steps of 64 images of 64², two views each; not measured.

At the scale of the paper (ResNet-152 and ImageNet, as far as its recipe is known; not run here):
  --config.model.backbone=resnet152 --config.model.width=1 --config.image_size=224 --config.batch_size=4096
  --config.steps=250000 --config.optimizer.name=lars --config.optimizer.learning_rate=4.8
  --config.optimizer.weight_decay=1e-6 --config.optimizer.warmup_steps=3130
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "stage": "train",
            "data_dir": "data",
            "train": ({"images": "scenes/unlabelled:train[:90%]"},),
            "validation": ({"images": "scenes/unlabelled:train[90%:]"},),
            "tasks": {"simclr": {}},
            "image_size": quickstart.IMAGE_SIZE,
            "model": quickstart.MODEL,
            "optimizer": {"learning_rate": 0.1, "warmup_steps": 200, "weight_decay": 1e-6, "clip_norm": 1.0},
            "batch_size": 64,
            "steps": 4000,
            "log_every": 50,
            "checkpoint_every": 500,
        }
    )
