"""All teachers label one image set in one pass: one label column per teacher and task, and a gallery to look at.

Data: `scenes/unlabelled:train`, rendered on first use, and the five finished teachers in runs/teacher_*.
Expected: runs/label/columns/<teacher>-<task>/, runs/label/gallery.html.
Cost: 46 seconds on two cores (measured, rendering included).

Your own photographs, of any size (JPEG, PNG, WebP, most TIFF, BMP, GIF, AVIF, JPEG 2000; not HEIC or raw):
  python -m must_jax.main --config=configs/label.py --workdir=runs/my_photos \
      --config.images=folder:PATH --config.teachers=runs/teacher_depth,runs/teacher_detection
The rules are the paper's: boxes with a score of at least 0.5, pixels below 0.5 ignored, soft classes, depth as
predicted.
Other thresholds: --config.tasks.detection.score_threshold=0.3, --config.tasks.segmentation.confidence_threshold=0.4;
of single classes: --config.tasks.detection.score_thresholds.person=0.7, ...segmentation.confidence_thresholds.sky=0.9;
fewer classes: --config.tasks.classification.top_k=10. To change the threshold of segmentation without labelling
again: --config.tasks.segmentation.keep_confidence=True here, min_confidence in the student (see configs/student.py).
Models of others (docs/teachers.md) are checked on 32 images first; on true labels with --config.check_on.images=..., or
by a finished check (configs/check.py) with --config.checked=runs/check.
To estimate the cost from 256 of the images, without keeping anything: --config.dry_run=true.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    return quickstart.label("runs")
