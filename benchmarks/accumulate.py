"""How far the gradient of a batch that is worked on in parts is from that of the whole batch, for each task.

    python benchmarks/accumulate.py [--data_dir=data]

A small network of all tasks on 16 rendered images, as a training reads them: most have no label of most tasks. Batch
norm uses its running statistics, since each part would have its own. The difference's norm over the gradient's norm:

    task           option       2 parts   4 parts   8 parts
    classification              1.8e-07   1.5e-07   1.8e-07
    detection                   1.2e-07   1.2e-07   2.5e-07
    segmentation                1.7e-07   1.7e-07   2.1e-07
    depth                       1.8e-07   1.8e-07   1.1e-07
    normals                     1.7e-07   1.4e-07   3.3e-07
    depth          relative     9.3e-07   9.3e-07   4.7e-07
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import jax
import optax

from must_jax.config import AugmentConfig, ModelConfig
from must_jax.data.batching import Source, train_batches
from must_jax.data.image_sets import open_images
from must_jax.engine.step import make_gradients
from must_jax.models.api import build_model
from must_jax.tasks import TASKS, build_task

LABELLED = [name for name, kind in TASKS.items() if not kind.self_supervised]

IMAGE_SIZE, IMAGES, PARTS = 64, 16, (2, 4, 8)
MODEL = ModelConfig(backbone="resnet10", width=0.125, pyramid_channels=8, head_channels=8, head_convs=1)
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in LABELLED),
    ("depth", {"depth_kind": "relative"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    data_dir = parser.parse_args().data_dir
    images = [open_images(f"scenes/teacher_{name}_tiny:train", data_dir) for name in LABELLED]
    sources = [Source(each, tuple(each.labels.values())) for each in images]
    classes = {column.task: column.classes for source in sources for column in source.columns}
    kinds = {name: build_task(name, known).label for name, known in classes.items()}
    options: Mapping[str, Any] = {"augment": AugmentConfig(), "batch_size": IMAGES, "seed": 0}
    batch = next(train_batches(sources, kinds, input_hw=(IMAGE_SIZE, IMAGE_SIZE), **options))
    print("task           option    " + "".join(f"{parts:>4} parts" for parts in PARTS))
    for name, chosen in OPTIONS:
        task = build_task(name, classes[name], chosen)
        model = build_model(MODEL, {name: task.head(MODEL)})
        variables = model.init(jax.random.key(0), (IMAGE_SIZE, IMAGE_SIZE))
        # Away from where it starts: the gradient of a normal of length 0 is made of rounding.
        leaves, tree = jax.tree.flatten(variables["params"])
        keys = jax.random.split(jax.random.key(1), len(leaves))
        noisy = [x + 0.1 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
        variables = {**variables, "params": jax.tree.unflatten(tree, noisy)}

        def forward(variables: Any, batch: Any, train: bool, model: Any = model) -> tuple[Any, Any]:
            outputs, _ = model.apply(variables, batch["image"], train=False)
            return outputs, variables["stats"]

        found = [
            jax.jit(make_gradients(forward, {name: task}, (IMAGE_SIZE, IMAGE_SIZE), {name: 1.0}, parts))(
                variables["params"],
                variables["stats"],
                {"image": batch["image"], "labels": {name: batch["labels"][name]}},
            )[0]
            for parts in (1, *PARTS)
        ]
        off = [optax.tree.norm(optax.tree.sub(each, found[0])) / optax.tree.norm(found[0]) for each in found[1:]]
        print(f"{name:15}{chosen.get('kind', ''):10}" + "".join(f"{float(each):10.1e}" for each in off))


if __name__ == "__main__":
    main()
