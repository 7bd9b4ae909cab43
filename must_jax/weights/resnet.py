"""The names of a ResNet's parameters in timm and torchvision, which are the same, and in transformers."""

from __future__ import annotations

from collections.abc import Callable

from must_jax.config.architectures import ResNetParts
from must_jax.weights.names import CONV, Convention, Rule

_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_BLOCK = r"stage(\d)_(\d+)"


def _convs(ours: str, theirs: Callable[..., str]) -> tuple[Rule, ...]:
    """A convolution, which may have a bias."""
    return (
        Rule(f"{ours}/kernel", lambda *g: f"{theirs(*g)}.weight", CONV),
        Rule(f"{ours}/bias", lambda *g: f"{theirs(*g)}.bias"),
    )


def _norms(ours: str, theirs: Callable[..., str]) -> tuple[Rule, ...]:
    """The four arrays of a batch norm."""
    return tuple(Rule(f"{ours}/{here}", lambda *g, end=end: f"{theirs(*g)}.{end}") for here, end in _NORM.items())


def conventions(parts: ResNetParts) -> tuple[Convention, ...]:
    """How others name what such a ResNet is made of."""
    # Before the convolution of a shortcut of ResNet-D there is its pool, in a list of modules.
    shortcut, norm = (1, 2) if parts.pooled_shortcut else (0, 1)
    timm = Convention(
        "timm",
        rules=(
            *_convs("stem", lambda: "conv1.6" if parts.deep_stem else "conv1"),
            *_convs(r"stem(\d)", lambda n: f"conv1.{3 * n - 3}"),
            *_norms(r"stem(\d)_norm", lambda n: f"conv1.{3 * n - 2}"),
            *_norms("stem_norm", lambda: "bn1"),
            *_convs("pool", lambda: "maxpool.0"),
            *_norms("pool_norm", lambda: "maxpool.1"),
            *_convs(rf"{_BLOCK}/conv(\d)", lambda s, b, n: f"layer{s}.{b - 1}.conv{n}"),
            *_norms(rf"{_BLOCK}/norm(\d)", lambda s, b, n: f"layer{s}.{b - 1}.bn{n}"),
            *_convs(f"{_BLOCK}/shortcut", lambda s, b: f"layer{s}.{b - 1}.downsample.{shortcut}"),
            *_norms(f"{_BLOCK}/shortcut_norm", lambda s, b: f"layer{s}.{b - 1}.downsample.{norm}"),
            *_convs(f"{_BLOCK}/squeeze/squeeze", lambda s, b: f"layer{s}.{b - 1}.se.fc1"),
            *_convs(f"{_BLOCK}/squeeze/excite", lambda s, b: f"layer{s}.{b - 1}.se.fc2"),
        ),
        prefixes=("module.", "backbone.", "model."),
        heads=r"fc\..*",
        ignored=r".*\.num_batches_tracked",
    )

    def layer(s: int, b: int) -> str:
        return f"encoder.stages.{s - 1}.layers.{b - 1}"

    transformers = Convention(
        "transformers",
        rules=(
            *_convs("stem", lambda: "embedder.embedder.convolution"),
            *_norms("stem_norm", lambda: "embedder.embedder.normalization"),
            *_convs(rf"{_BLOCK}/conv(\d)", lambda s, b, n: f"{layer(s, b)}.layer.{n - 1}.convolution"),
            *_norms(rf"{_BLOCK}/norm(\d)", lambda s, b, n: f"{layer(s, b)}.layer.{n - 1}.normalization"),
            *_convs(f"{_BLOCK}/shortcut", lambda s, b: f"{layer(s, b)}.shortcut.convolution"),
            *_norms(f"{_BLOCK}/shortcut_norm", lambda s, b: f"{layer(s, b)}.shortcut.normalization"),
        ),
        prefixes=("resnet.", "backbone."),
        heads=r"classifier\..*",
        ignored=r".*\.num_batches_tracked",
    )
    return (timm,) if parts.deep_stem or parts.squeeze else (timm, transformers)
