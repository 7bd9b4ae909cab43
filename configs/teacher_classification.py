"""An image classification teacher.

Data: `scenes/teacher_classification`, ground truth for this task only, rendered on first use.
Expected on its held-out images: a top-1 accuracy of at least 60 %; otherwise the run fails.
Measured: 96.7.
Cost: 900 steps of 16 images of 64², 35 seconds on two cores (measured, rendering and compilation included).

At the scale of the paper (ImageNet, as far as its recipe is known; not run here), on an image set of your own:
  --config.model.backbone=resnet152 --config.model.width=1 --config.model.pyramid_channels=256
  --config.model.head_channels=256 --config.model.head_convs=3 --config.image_size=224 --config.batch_size=2048
  --config.steps=250000 --config.optimizer.learning_rate=0.8 --config.tasks.classification.label_smoothing=0.1
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    return quickstart.teacher("classification")
