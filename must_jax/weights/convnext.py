"""The names of a ConvNeXt's parameters: in timm, transformers, torchvision, and in its authors' own files."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from must_jax.config.architectures import ConvNeXtParts
from must_jax.weights.names import CONV, SAME, Convention, Form, Rule

_STAGE, _BLOCK = r"stage(\d)", r"stage(\d)_(\d+)"
# The layers over channels are linear ones there, or convolutions. Here: [1, 1, C, D].
_LINEAR = Form(lambda given, shape: given[0].reshape(given[0].shape[0], -1).T[None, None], lambda ours: (ours[0, 0].T,))


def _with_axes(*shape: int) -> Form:
    """A vector that has this shape there."""
    return Form(lambda given, ours: given[0].reshape(ours), lambda ours: (np.reshape(ours, shape),))


def _rules(
    stem: Mapping[str, str],
    shrink: Callable[[int, int], str],
    block: Callable[[int, int], str],
    inner: tuple[str, str, str, str],
    *,
    linear: Form = _LINEAR,
    gamma: tuple[str, Form] = ("gamma", SAME),
    response: tuple[str, str, Form] = ("grn.weight", "grn.bias", _with_axes(1, 1, 1, -1)),
) -> tuple[Rule, ...]:
    """Those of one library.

    Args:
      stem: the names there of "stem1", "stem" and "stem_norm".
      shrink: (stage, from 1; 0 = its norm, 1 = its convolution) -> what is before a stage's blocks.
      block: (stage, block) -> the block, both from 1.
      inner: in a block, the names of its depthwise convolution, norm and two layers.
      response: scale and bias of response normalisation.
    """
    depthwise, norm, expand, project = inner
    rules = [Rule(f"{ours}/kernel", lambda name=name: f"{name}.weight", CONV) for ours, name in stem.items()]
    rules += [Rule(f"{ours}/bias", lambda name=name: f"{name}.bias") for ours, name in stem.items()]
    rules += [
        Rule("stem_norm/scale", lambda: f"{stem['stem_norm']}.weight"),
        Rule(f"{_STAGE}_norm/scale", lambda s: f"{shrink(s, 0)}.weight"),
        Rule(f"{_STAGE}_norm/bias", lambda s: f"{shrink(s, 0)}.bias"),
        Rule(f"{_STAGE}_shrink/kernel", lambda s: f"{shrink(s, 1)}.weight", CONV),
        Rule(f"{_STAGE}_shrink/bias", lambda s: f"{shrink(s, 1)}.bias"),
        Rule(f"{_BLOCK}/norm/scale", lambda s, b: f"{block(s, b)}.{norm}.weight"),
        Rule(f"{_BLOCK}/gamma", lambda s, b: f"{block(s, b)}.{gamma[0]}", gamma[1]),
        Rule(f"{_BLOCK}/response_norm/scale", lambda s, b: f"{block(s, b)}.{response[0]}", response[2]),
        Rule(f"{_BLOCK}/response_norm/bias", lambda s, b: f"{block(s, b)}.{response[1]}", response[2]),
    ]
    for ours, theirs, form in (
        ("depthwise", depthwise, CONV),
        ("expand", expand, linear),
        ("project", project, linear),
    ):
        rules.append(Rule(f"{_BLOCK}/{ours}/kernel", lambda s, b, n=theirs: f"{block(s, b)}.{n}.weight", form))
    for ours, theirs in (("depthwise", depthwise), ("norm", norm), ("expand", expand), ("project", project)):
        rules.append(Rule(f"{_BLOCK}/{ours}/bias", lambda s, b, n=theirs: f"{block(s, b)}.{n}.bias"))
    return tuple(rules)


def conventions(parts: ConvNeXtParts) -> tuple[Convention, ...]:
    """How others name what such a ConvNeXt is made of."""
    if parts.stem_channels:
        second = 2 if parts.stem_gelu else 1
        stem = {"stem1": "stem.0", "stem": f"stem.{second}", "stem_norm": f"stem.{second + 1}"}
    else:
        stem = {"stem": "stem.0", "stem_norm": "stem.1"}
    wrappers = ("module.", "backbone.", "model.")
    timm = Convention(
        "timm",
        _rules(
            stem,
            lambda s, n: f"stages.{s - 1}.downsample.{n}",
            lambda s, b: f"stages.{s - 1}.blocks.{b - 1}",
            ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
            linear=CONV if parts.conv_mlp else _LINEAR,
            response=("mlp.grn.weight", "mlp.grn.bias", SAME),
        ),
        prefixes=(*wrappers, "visual.trunk."),
        # In open_clip's files there is a tower for texts, too.
        heads=r"(head|norm_pre|visual\.head|text|transformer|token_embedding|ln_final)\..*"
        r"|positional_embedding|text_projection|logit_scale|logit_bias",
    )
    if parts.stem_channels or parts.norm != "layer" or parts.epsilon != 1e-6:
        return (timm,)
    authors = Convention(
        "its authors",
        _rules(
            {"stem": "downsample_layers.0.0", "stem_norm": "downsample_layers.0.1"},
            lambda s, n: f"downsample_layers.{s - 1}.{n}",
            lambda s, b: f"stages.{s - 1}.{b - 1}",
            ("dwconv", "norm", "pwconv1", "pwconv2"),
            response=("grn.gamma", "grn.beta", _with_axes(1, 1, 1, -1)),
        ),
        prefixes=wrappers,
        heads=r"(head|norm|norms|projectors)\..*",
    )
    transformers = Convention(
        "transformers",
        _rules(
            {"stem": "embeddings.patch_embeddings", "stem_norm": "embeddings.layernorm"},
            lambda s, n: f"encoder.stages.{s - 1}.downsampling_layer.{n}",
            lambda s, b: f"encoder.stages.{s - 1}.layers.{b - 1}",
            ("dwconv", "layernorm", "pwconv1", "pwconv2"),
            gamma=("layer_scale_parameter", SAME),
        ),
        prefixes=("convnextv2." if parts.v2 else "convnext.", "backbone."),
        heads=r"(layernorm|classifier|hidden_states_norms)\..*",
    )
    if parts.v2:
        return timm, transformers, authors

    dinov3 = Convention(
        "transformers (DINOv3)",
        _rules(
            {"stem": "stages.0.downsample_layers.0", "stem_norm": "stages.0.downsample_layers.1"},
            lambda s, n: f"stages.{s - 1}.downsample_layers.{n}",
            lambda s, b: f"stages.{s - 1}.layers.{b - 1}",
            ("depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2"),
        ),
        prefixes=("model.", "backbone.", "backbone.model."),  # the first one in memory only, not in files
        heads=r"layer_norm\..*",
    )
    torchvision = Convention(
        "torchvision",
        _rules(
            {"stem": "features.0.0", "stem_norm": "features.0.1"},
            lambda s, n: f"features.{2 * s - 2}.{n}",
            lambda s, b: f"features.{2 * s - 1}.{b - 1}",
            ("block.0", "block.2", "block.3", "block.5"),
            gamma=("layer_scale", _with_axes(-1, 1, 1)),
        ),
        prefixes=wrappers,
        heads=r"classifier\..*",
    )
    return timm, transformers, dinov3, torchvision, authors
