"""The backbones that are known by name, as timm calls them: what they are made of, and how they see images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

# Mean and std of RGB, 0..1, by where they come from.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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


@dataclass(frozen=True)
class ViTParts:
    """Vision transformer (Dosovitskiy et al. 2021) and its relatives.

    Attributes:
      patch: side of a patch in pixels, of which a token is made.
      grid: side of the square of tokens at which it was trained, in tokens; position embeddings are of this size.
      channels: of a token.
      hidden: channels between the two layers of an MLP.
      activation: of the MLP. "gelu_tanh" and "quick_gelu" approximate it; "swiglu" is silu(a) * b (Shazeer 2020).
      class_token: whether there is one before the patches.
      registers: further tokens between these (Darcet et al. 2024).
      position: of what learnt embeddings are added: "all" = class token and patches, "patches"; or "rotary": queries
        and keys of patches are rotated (Siméoni et al. 2025, DINOv3).
      qkv_bias: what has a bias: "all", "query_value", or "none".
      pre_norm: a norm before the first block, and patches without a bias (Radford et al. 2021, CLIP).
      layer_scale: what the factors on residual branches start with (Touvron et al. 2021, CaiT); 0 = there are none.
      epsilon: of the norms.
    """

    patch: int
    grid: int
    channels: int
    depth: int
    heads: int
    hidden: int
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu"
    class_token: bool = True
    registers: int = 0
    position: Literal["all", "patches", "rotary"] = "all"
    qkv_bias: Literal["all", "query_value", "none"] = "all"
    pre_norm: bool = False
    layer_scale: float = 0.0
    epsilon: float = 1e-6


@dataclass(frozen=True)
class ConvNeXtParts:
    """ConvNeXt (Liu et al. 2022), V2 (Woo et al. 2023), and timm's small ones.

    Attributes:
      blocks, channels: of each of the four stages.
      v2: global response normalisation in each block, instead of a factor for each channel (LayerScale).
      stem_channels: between the two 3x3 convolutions of the stem; 0 = one convolution of 4x4 patches instead.
      stem_gelu: whether there is a GELU between these.
      norm: layer norm; "rms", which does not subtract the mean; or "simple", which does so for the variance only.
      epsilon: of the norms.
      conv_mlp: whether timm's files have 1x1 convolutions for the layers over channels, not linear ones.
    """

    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int]
    v2: bool = False
    stem_channels: int = 0
    stem_gelu: bool = False
    norm: Literal["layer", "rms", "simple"] = "layer"
    epsilon: float = 1e-6
    conv_mlp: bool = False


Parts = ResNetParts | ViTParts | ConvNeXtParts


@dataclass(frozen=True)
class Architecture:
    """A backbone by name.

    Attributes:
      family: in words.
      image_size: pixels at which its published weights were trained.
      mean, std: of RGB, 0..1, with which they were trained.
    """

    name: str
    family: Literal["ResNet", "ViT", "DeiT III", "CLIP", "SigLIP", "DINOv2", "TIPS", "DINOv3", "ConvNeXt"]
    parts: Parts
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]


_RESNET_PX = {
    **dict.fromkeys(("resnet101d", "resnet152d", "resnet200d", "seresnet152d", "seresnet200d"), 256),
    **dict.fromkeys(("resnetrs152", "resnetrs200", "resnetrs270"), 256),
    **{"resnetrs50": 160, "resnetrs101": 192, "resnetrs350": 288, "resnetrs420": 320},
}


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


_VITS = {  # channels, depth, heads, hidden
    "tiny": (192, 12, 3, 768),
    "small": (384, 12, 6, 1536),
    "medium": (512, 12, 8, 2048),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "huge": (1280, 32, 16, 5120),
    "giant": (1408, 40, 16, 6144),
    "giantopt": (1536, 40, 16, 6144),
    "gigantic": (1664, 48, 16, 8192),
}


_Sizes = Mapping[str, Mapping[int, tuple[int, ...]]]  # by size and patch: pixels of images


def _vits() -> Iterator[Architecture]:
    """A network at several sizes is several architectures: their position embeddings differ in shape."""

    def vit(name: str, family: Any, size: str, patch: int, px: int, seen: Any = INCEPTION, **more: Any) -> Architecture:
        parts = ViTParts(patch, px // patch, *_VITS[size], **more)
        return Architecture(name, family, parts, px, *seen)

    plain: _Sizes = {
        "tiny": {16: (224, 384)},
        "small": {32: (224, 384), 16: (224, 384), 8: (224,)},
        "base": {32: (224, 384), 16: (224, 384), 8: (224,)},
        "large": {32: (224, 384), 16: (224, 384), 14: (224,)},
        "huge": {14: (224,)},
    }
    for size, patch, px in _each(plain):
        name = f"vit_{size}_patch{patch}_{px}"
        yield vit(name, "ViT", size, patch, px, IMAGENET if name == "vit_small_patch8_224" else INCEPTION)
    for size, patch, px in _each({"tiny": {16: (224,)}, "small": {16: (224,)}, "base": {16: (224, 384)}}):
        yield vit(f"deit_{size}_patch{patch}_{px}", "ViT", size, patch, px, IMAGENET)

    deit3: _Sizes = {
        "small": {16: (224, 384)},
        "medium": {16: (224,)},
        "base": {16: (224, 384)},
        "large": {16: (224, 384)},
    }
    for size, patch, px in _each({**deit3, "huge": {14: (224,)}}):
        more = {"position": "patches", "layer_scale": 1e-6}
        yield vit(f"deit3_{size}_patch{patch}_{px}", "DeiT III", size, patch, px, IMAGENET, **more)

    clip: Mapping[str, _Sizes] = {
        "": {
            "base": {32: (224, 256, 384, 448), 16: (224, 384)},
            "large": {14: (224, 336)},
            "huge": {14: (224, 336, 378)},
            "giant": {14: (224,)},
            "gigantic": {14: (224, 378)},
        },
        "quickgelu_": {
            "base": {32: (224,), 16: (224,)},
            "large": {14: (224, 336)},
            "huge": {14: (224, 378)},
            "gigantic": {14: (224,)},
        },
    }
    for kind, sizes in clip.items():
        for size, patch, px in _each(sizes):
            seen = INCEPTION if (kind, size) == ("", "large") else CLIP  # as LAION trained it
            more = {"activation": "quick_gelu" if kind else "gelu", "pre_norm": True, "epsilon": 1e-5}
            yield vit(f"vit_{size}_patch{patch}_clip_{kind}{px}", "CLIP", size, patch, px, seen, **more)

    siglip: _Sizes = {
        "base": {32: (256,), 16: (224, 256, 384, 512)},
        "large": {16: (256, 384, 512)},
        "so400m": {14: (224, 378, 384), 16: (256, 384, 512)},
        "giantopt": {16: (256, 384)},
    }
    for size, patch, px in _each(siglip):
        # Those that came with SigLIP 2 have the approximation with which all were trained.
        second = (size, patch) in (("base", 32), ("so400m", 16), ("giantopt", 16)) or (size, px) == ("large", 512)
        more = {"activation": "gelu_tanh" if second else "gelu", "class_token": False, "position": "patches"}
        yield vit(f"vit_{size}_patch{patch}_siglip_{px}", "SigLIP", size, patch, px, **more)

    giant = {"channels": 1536, "heads": 24, "hidden": 4096, "activation": "swiglu"}
    registers = {"position": "patches", "registers": 4}
    for size in ("small", "base", "large", "giant"):
        for kind, more in (("", {}), ("reg4_", registers)):
            found = vit(f"vit_{size}_patch14_{kind}dinov2", "DINOv2", size, 14, 518, IMAGENET, layer_scale=1e-5, **more)
            yield _with(found, **giant) if size == "giant" else found
    for size in ("base", "large", "so400m", "giant"):
        more = {"position": "patches", "registers": 1, "layer_scale": 1.0}
        found = vit(f"vit_{size}_patch14_reg1_tipsv2", "TIPS", size, 14, 448, UNCHANGED, **more)
        yield _with(found, **giant) if size == "giant" else found

    dinov3: dict[str, tuple[str, dict[str, Any]]] = {
        "tiny": ("tiny", {}),
        "small": ("small", {}),
        "small_plus": ("small", {"activation": "swiglu"}),
        "base": ("base", {}),
        "large": ("large", {}),
        "huge_plus": ("huge", {"activation": "swiglu", "heads": 20}),
        "7b": ("giant", {"activation": "swiglu", "channels": 4096, "heads": 32, "hidden": 8192}),
    }
    for name, (size, changes) in dinov3.items():
        for kind, bias in (("", "none"), ("_qkvb", "query_value")):
            if (name, kind) in (("tiny", ""), ("7b", "_qkvb")):
                continue  # timm has none
            more = {"position": "rotary", "registers": 4, "layer_scale": 1e-5, "qkv_bias": bias, "epsilon": 1e-5}
            found = vit(f"vit_{name}_patch16_dinov3{kind}", "DINOv3", size, 16, 256, IMAGENET, **more)
            yield _with(found, **changes)


def _each(sizes: _Sizes) -> Iterator[tuple[str, int, int]]:
    """Size, patch, and image size."""
    return ((size, patch, px) for size, patches in sizes.items() for patch, all_px in patches.items() for px in all_px)


def _with(architecture: Architecture, **parts: Any) -> Architecture:
    return replace(architecture, parts=replace(architecture.parts, **parts))


def _convnexts() -> dict[str, ConvNeXtParts]:
    sizes = {  # blocks, and channels of the first stage
        "zepto": ((2, 2, 4, 2), 32),
        "atto": ((2, 2, 6, 2), 40),
        "femto": ((2, 2, 6, 2), 48),
        "pico": ((2, 2, 6, 2), 64),
        "nano": ((2, 2, 8, 2), 80),
        "tiny": ((3, 3, 9, 3), 96),
        "small": ((3, 3, 27, 3), 96),
        "base": ((3, 3, 27, 3), 128),
        "large": ((3, 3, 27, 3), 192),
        "xlarge": ((3, 3, 27, 3), 256),
        "huge": ((3, 3, 27, 3), 352),
        "xxlarge": ((3, 4, 30, 3), 384),
    }
    small = ("zepto", "atto", "femto", "pico", "nano")
    plain = {
        size: ConvNeXtParts(blocks, (c, 2 * c, 4 * c, 8 * c), conv_mlp=size in small)
        for size, (blocks, c) in sizes.items()
    }
    found = {f"convnext_{size}": parts for size, parts in plain.items() if size not in ("zepto", "huge", "xxlarge")}
    for size, between in (("atto", 24), ("femto", 24), ("pico", 32), ("nano", 80)):
        found[f"convnext_{size}_ols"] = replace(plain[size], stem_channels=between)
    found["convnext_atto_rms"] = replace(plain["atto"], norm="rms")
    found["convnext_zepto_rms"] = zepto = replace(plain["zepto"], norm="simple")
    found["convnext_zepto_rms_ols"] = replace(zepto, stem_channels=32, stem_gelu=True)
    # Its classifier sees normalised maps, that of the next one has a hidden layer: the backbones are the same.
    found["convnext_tiny_hnf"] = replace(plain["tiny"], conv_mlp=True)
    found["convnext_large_mlp"] = plain["large"]
    found["convnext_xxlarge"] = replace(plain["xxlarge"], epsilon=1e-5)
    for size, parts in plain.items():
        if size not in ("zepto", "xlarge", "xxlarge"):
            found[f"convnextv2_{size}"] = replace(parts, v2=True)
    return found


def _convnext(name: str, parts: ConvNeXtParts) -> Architecture:
    size = {"convnext_large_mlp": 320, "convnext_xxlarge": 256, "convnextv2_huge": 384}.get(name, 224)
    if name in ("convnext_large_mlp", "convnext_xxlarge"):  # image towers of CLIP
        return Architecture(name, "ConvNeXt", parts, size, *CLIP)
    return Architecture(name, "ConvNeXt", parts, size, *(INCEPTION if "zepto" in name else IMAGENET))


ARCHITECTURES: Mapping[str, Architecture] = {
    **{name: Architecture(name, "ResNet", parts, _RESNET_PX.get(name, 224)) for name, parts in _resnets().items()},
    **{found.name: found for found in _vits()},
    **{name: _convnext(name, parts) for name, parts in _convnexts().items()},
}
