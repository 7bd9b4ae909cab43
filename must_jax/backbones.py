"""The backbones that `config.model.backbone` may name: python -m must_jax.backbones, or with a pattern, 'resnet*d'."""

from __future__ import annotations

import argparse
import fnmatch

import jax
import jax.numpy as jnp

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES
from must_jax.engine.state import count_parameters
from must_jax.models.api import build_model

_LINE = "{:36}{:>12}{:>14}  {}"


def main() -> None:
    """Prints a line for each: its parameters, the size at which its published weights were trained, its family."""
    parser = argparse.ArgumentParser(prog="python -m must_jax.backbones", description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="of names, such as 'resnet*d'")
    pattern = parser.parse_args().pattern
    print(_LINE.format("model.backbone", "parameters", "published at", "family"))
    for name in fnmatch.filter(ARCHITECTURES, pattern):
        architecture = ARCHITECTURES[name]
        module = build_model(ModelConfig(backbone=name), {}).backbone
        side = round(32 * module.input_share)  # any will do: the parameters do not depend on it
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        variables = jax.eval_shape(lambda x, module=module: module.init(jax.random.key(0), x, False), image)
        count = f"{count_parameters(variables['params']) / 1e6:,.1f} M"
        print(_LINE.format(name, count, f"{architecture.image_size} px", architecture.family), flush=True)


if __name__ == "__main__":
    main()
