"""The backbones that are known by name, as timm calls them: what they are made of, and how they see images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of RGB, 0..1


@dataclass(frozen=True)
class ResNetParts:
    """ResNet (He et al. 2015), v1.5: the 3x3 convolution of a bottleneck carries the stride.

    Attributes:
      blocks: of each of the four stages.
      bottleneck: 1x1, 3x3, 1x1 convolutions with four times the channels at the end, instead of two 3x3 ones.
      deep_stem: three 3x3 convolutions instead of a 7x7 one (He et al. 2019, ResNet-C).
      pooled_shortcut: shortcuts that shrink the map take means of 2x2 cells (He et al. 2019, ResNet-D).
      convolved_pool: a 3x3 convolution with stride 2 instead of the max pool after the stem (Bello et al. 2021,
        ResNet-RS).
      squeeze: share of the channels between the two layers of squeeze and excitation (Hu et al. 2018); 0 = none.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    deep_stem: bool = False
    pooled_shortcut: bool = False
    convolved_pool: bool = False
    squeeze: float = 0.0


Parts = ResNetParts


@dataclass(frozen=True)
class Architecture:
    """A backbone by name.

    Attributes:
      family: in words.
      image_size: pixels at which its published weights were trained.
      mean, std: of RGB, 0..1, with which they were trained.
    """

    name: str
    family: Literal["ResNet"]
    parts: Parts
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]


def _resnets() -> dict[str, ResNetParts]:
    basic = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}
    deep = {
        "26": (2, 2, 2, 2),
        "50": (3, 4, 6, 3),
        "101": (3, 4, 23, 3),
        "152": (3, 8, 36, 3),
        "200": (3, 24, 36, 3),
    }
    larger = {"270": (4, 29, 53, 4), "350": (4, 36, 72, 4), "420": (4, 44, 87, 4)}
    plain = {"10": ResNetParts((1, 1, 1, 1), bottleneck=False)}
    plain |= {depth: ResNetParts(blocks, bottleneck=False) for depth, blocks in basic.items()}
    plain |= {depth: ResNetParts(blocks) for depth, blocks in deep.items()}
    found = {f"resnet{depth}": parts for depth, parts in plain.items()}
    for depth in ("18", "34", "26", "50", "101", "152", "200"):
        found[f"resnet{depth}d"] = replace(plain[depth], deep_stem=True, pooled_shortcut=True)
    for depth in ("18", "34", "50", "101", "152"):
        found[f"seresnet{depth}"] = replace(plain[depth], squeeze=1 / 16)
    for depth in ("152", "200"):
        found[f"seresnet{depth}d"] = replace(found[f"resnet{depth}d"], squeeze=1 / 16)
    rs = ResNetParts((3, 4, 6, 3), deep_stem=True, pooled_shortcut=True, convolved_pool=True, squeeze=1 / 4)
    for depth, blocks in (deep | larger).items():
        if depth != "26":
            found[f"resnetrs{depth}"] = replace(rs, blocks=blocks)
    return found


ARCHITECTURES: Mapping[str, Architecture] = {
    name: Architecture(name, "ResNet", parts) for name, parts in _resnets().items()
}
