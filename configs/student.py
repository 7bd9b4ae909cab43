"""The student: one model for all five tasks, trained on pseudo labels only.

Data: `scenes/unlabelled:train` with the five columns in runs/label/columns. Task weights follow the paper's rule,
(student's batch size x teacher's learning rate) / (teacher's batch size x student's learning rate); set your own with
--config.tasks.depth.weight=0.5. A column that failed the gate (docs/label_store.md) is refused.
To raise a task's confidence threshold without labelling again: --config.train.0.min_confidence.detection=0.7, and
likewise for classification, and for segmentation if it was labelled with keep_confidence.
To train on fewer labels, in another workdir: --config.columns.drop=depth (a task or a teacher's name), or
--config.train.0.take=2000 (a sample of 2,000 images).
Expected: a backbone and pyramid that transfer better than those of the teachers; configs/evaluate.py measures it.
To check, without a TPU, whether it fits a TPU slice: --config.stage=compile --config.compile.topology=v5e:4x8.
Cost: 1,600 steps of 16 images of 64², 2 minutes on two cores (measured).

At the scale of the paper (section 4, as far as its recipe is known; not run here), on an image set of your own:
  --config.model.backbone=resnet152 --config.model.width=1 --config.model.pyramid_channels=256
  --config.model.head_channels=256 --config.model.head_convs=3 --config.image_size=640 --config.augment.scale_min=0.5
  --config.augment.scale_max=2 --config.batch_size=256 --config.optimizer.learning_rate=0.32
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    return quickstart.student("runs")
