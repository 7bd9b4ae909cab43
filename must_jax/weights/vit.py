"""The names of a vision transformer's parameters in timm, transformers, open_clip, DINOv2, and Google's npz files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from must_jax.config.architectures import ViTParts
from must_jax.weights.names import CONV, LINEAR, SAME, Convention, Form, Rule

# Tokens and positions [n, C] have an axis of one image before them, or, if there is one token, no axis for it.
_BATCHED = Form(lambda given, shape: given[0].squeeze(0), lambda ours: (ours[None],))
_SINGLE = Form(lambda given, shape: given[0][None], lambda ours: (ours[0],))
# Of a file where the class token has a position of its own, to be added to it, while here it has none.
_PLACED = Form(
    lambda given, shape: given[0].squeeze(0) + given[1].squeeze(0)[: shape[0]],
    lambda ours: (ours[None], None),
)
_UNPLACED = Form(
    lambda given, shape: given[0].squeeze(0)[-shape[0] :],
    lambda ours: (np.concatenate([np.zeros_like(ours[:1]), ours])[None],),
)


def _joined(parts: int) -> tuple[Form, Form]:
    """Of kernels and biases of several layers there that are one here."""
    kernel = Form(lambda given, shape: np.concatenate(given).T, lambda ours: tuple(np.split(ours.T, parts)))
    bias = Form(lambda given, shape: np.concatenate(given), lambda ours: tuple(np.split(ours, parts)))
    return kernel, bias


def _layer(ours: str, theirs: Callable[..., str], form: Form = LINEAR) -> tuple[Rule, ...]:
    """A linear layer, or a convolution, and its bias."""
    return (
        Rule(f"{ours}/kernel", lambda *g: f"{theirs(*g)}.weight", form),
        Rule(f"{ours}/bias", lambda *g: f"{theirs(*g)}.bias"),
    )


def _layers(ours: str, theirs: Callable[..., tuple[str, ...]], count: int) -> tuple[Rule, ...]:
    """Several linear layers that are one here."""
    kernel, bias = _joined(count)
    return (
        Rule(f"{ours}/kernel", lambda *g: tuple(f"{name}.weight" for name in theirs(*g)), kernel),
        Rule(f"{ours}/bias", lambda *g: tuple(f"{name}.bias" for name in theirs(*g)), bias),
    )


def _norm(ours: str, theirs: Callable[..., str]) -> tuple[Rule, ...]:
    return (
        Rule(f"{ours}/scale", lambda *g: f"{theirs(*g)}.weight"),
        Rule(f"{ours}/bias", lambda *g: f"{theirs(*g)}.bias"),
    )


_BLOCK = r"block(\d+)"


def conventions(parts: ViTParts) -> tuple[Convention, ...]:
    """How others name what such a network is made of."""
    found = [_timm(parts)]
    if parts.pre_norm:
        found += [_clip(), _open_clip()]
    elif parts.position == "rotary":
        found.append(_dinov3(parts))
    elif not parts.class_token:
        found += [_clip(), _npz("big_vision", parts)]
    elif parts.layer_scale:
        if parts.registers or parts.position == "all":
            found.append(_dinov2(parts))
        if parts.registers or parts.activation == "swiglu":  # otherwise they are timm's
            found.append(_dinov2_itself(parts))
    else:
        found += [_vit(), _npz("AugReg", parts)]
    return tuple(found)


def _timm(parts: ViTParts) -> Convention:
    eva = parts.position == "rotary"  # timm has another class for them
    gated = eva and parts.activation == "swiglu"
    return Convention(
        "timm",
        rules=(
            *_layer("patch", lambda: "patch_embed.proj", CONV),
            Rule("class_token", lambda: "cls_token", _BATCHED),
            Rule("registers", lambda: "reg_token", _BATCHED),
            Rule("position", lambda: "pos_embed", _BATCHED),
            *_norm("pre_norm", lambda: "norm_pre"),
            *_norm("norm", lambda: "norm"),
            *_norm(rf"{_BLOCK}/norm(\d)", lambda b, n: f"blocks.{b - 1}.norm{n}"),
            *_layer(f"{_BLOCK}/attention/qkv", lambda b: f"blocks.{b - 1}.attn.qkv"),
            Rule(f"{_BLOCK}/attention/query_bias", lambda b: f"blocks.{b - 1}.attn.q_bias"),
            Rule(f"{_BLOCK}/attention/value_bias", lambda b: f"blocks.{b - 1}.attn.v_bias"),
            *_layer(f"{_BLOCK}/attention/out", lambda b: f"blocks.{b - 1}.attn.proj"),
            Rule(
                rf"{_BLOCK}/scale(\d)",
                lambda b, n: f"blocks.{b - 1}.gamma_{n}" if eva else f"blocks.{b - 1}.ls{n}.gamma",
            ),
            *(
                _layers(f"{_BLOCK}/mlp/fc1", lambda b: tuple(f"blocks.{b - 1}.mlp.fc1_{x}" for x in "gx"), 2)
                if gated
                else ()
            ),
            *_layer(rf"{_BLOCK}/mlp/fc(\d)", lambda b, n: f"blocks.{b - 1}.mlp.fc{n}"),
        ),
        prefixes=("module.", "backbone.", "model.", "visual.trunk."),
        heads=r"(head|head_dist|fc_norm|attn_pool|decoder\w*)\..*|mask_token|decoder_pos_embed",
    )


def _vit() -> Convention:
    """ViTModel of transformers."""

    def layer(b: int) -> str:
        return f"encoder.layer.{b - 1}"

    return Convention(
        "transformers",
        rules=(
            *_layer("patch", lambda: "embeddings.patch_embeddings.projection", CONV),
            Rule("class_token", lambda: "embeddings.cls_token", _BATCHED),
            Rule("position", lambda: "embeddings.position_embeddings", _BATCHED),
            *_norm("norm", lambda: "layernorm"),
            *_norm(f"{_BLOCK}/norm1", lambda b: f"{layer(b)}.layernorm_before"),
            *_norm(f"{_BLOCK}/norm2", lambda b: f"{layer(b)}.layernorm_after"),
            *_layers(f"{_BLOCK}/attention/qkv", lambda b: _attention(layer(b)), 3),
            *_layer(f"{_BLOCK}/attention/out", lambda b: f"{layer(b)}.attention.output.dense"),
            *_layer(f"{_BLOCK}/mlp/fc1", lambda b: f"{layer(b)}.intermediate.dense"),
            *_layer(f"{_BLOCK}/mlp/fc2", lambda b: f"{layer(b)}.output.dense"),
        ),
        prefixes=("vit.",),
        heads=r"(pooler|classifier|decoder)\..*|embeddings\.mask_token",
    )


def _attention(layer: str) -> tuple[str, ...]:
    return tuple(f"{layer}.attention.attention.{name}" for name in ("query", "key", "value"))


def _dinov2(parts: ViTParts) -> Convention:
    """Dinov2Model and Dinov2WithRegistersModel of transformers."""

    def layer(b: int) -> str:
        return f"encoder.layer.{b - 1}"

    inner, outer = ("weights_in", "weights_out") if parts.activation == "swiglu" else ("fc1", "fc2")
    return Convention(
        "transformers",
        rules=(
            *_layer("patch", lambda: "embeddings.patch_embeddings.projection", CONV),
            *_placed(parts, "embeddings.cls_token", "embeddings.position_embeddings"),
            Rule("registers", lambda: "embeddings.register_tokens", _BATCHED),
            *_norm("norm", lambda: "layernorm"),
            *_norm(rf"{_BLOCK}/norm(\d)", lambda b, n: f"{layer(b)}.norm{n}"),
            *_layers(f"{_BLOCK}/attention/qkv", lambda b: _attention(layer(b)), 3),
            *_layer(f"{_BLOCK}/attention/out", lambda b: f"{layer(b)}.attention.output.dense"),
            Rule(rf"{_BLOCK}/scale(\d)", lambda b, n: f"{layer(b)}.layer_scale{n}.lambda1"),
            *_layer(f"{_BLOCK}/mlp/fc1", lambda b: f"{layer(b)}.mlp.{inner}"),
            *_layer(f"{_BLOCK}/mlp/fc2", lambda b: f"{layer(b)}.mlp.{outer}"),
        ),
        prefixes=("dinov2.", "dinov2_with_registers.", "backbone."),
        heads=r"(classifier|head|neck)\..*|embeddings\.mask_token",
    )


def _placed(parts: ViTParts, token: str, position: str) -> tuple[Rule, ...]:
    """Of a library in which class tokens always have a position."""
    if parts.position == "all":
        return (Rule("class_token", lambda: token, _BATCHED), Rule("position", lambda: position, _BATCHED))
    return (
        Rule("class_token", lambda: (token, position), _PLACED),
        Rule("position", lambda: position, _UNPLACED),
    )


def _dinov2_itself(parts: ViTParts) -> Convention:
    """What DINOv2 and TIPS were published with; TIPS as npz, with PyTorch's names."""
    timm = _timm(parts)
    swiglu = (
        *_layer(f"{_BLOCK}/mlp/fc1", lambda b: f"blocks.{b - 1}.mlp.w12"),
        *_layer(f"{_BLOCK}/mlp/fc2", lambda b: f"blocks.{b - 1}.mlp.w3"),
    )
    rules = (
        *_placed(parts, "cls_token", "pos_embed"),
        Rule("registers", lambda: "register_tokens", _BATCHED),
        *(swiglu if parts.activation == "swiglu" else ()),
        *timm.rules,  # of what is not named above
    )
    return replace(timm, name="DINOv2", rules=rules, prefixes=("module.", "backbone.", "vision_encoder."))


def _dinov3(parts: ViTParts) -> Convention:
    """DINOv3ViTModel of transformers."""

    def layer(b: int) -> str:
        return f"layer.{b - 1}"

    gated = parts.activation == "swiglu"
    return Convention(
        "transformers",
        rules=(
            *_layer("patch", lambda: "embeddings.patch_embeddings", CONV),
            Rule("class_token", lambda: "embeddings.cls_token", _BATCHED),
            Rule("registers", lambda: "embeddings.register_tokens", _BATCHED),
            *_norm("norm", lambda: "norm"),
            *_norm(rf"{_BLOCK}/norm(\d)", lambda b, n: f"{layer(b)}.norm{n}"),
            *_layers(f"{_BLOCK}/attention/qkv", lambda b: tuple(f"{layer(b)}.attention.{x}_proj" for x in "qkv"), 3),
            Rule(f"{_BLOCK}/attention/query_bias", lambda b: f"{layer(b)}.attention.q_proj.bias"),
            Rule(f"{_BLOCK}/attention/value_bias", lambda b: f"{layer(b)}.attention.v_proj.bias"),
            *_layer(f"{_BLOCK}/attention/out", lambda b: f"{layer(b)}.attention.o_proj"),
            Rule(rf"{_BLOCK}/scale(\d)", lambda b, n: f"{layer(b)}.layer_scale{n}.lambda1"),
            *(
                _layers(f"{_BLOCK}/mlp/fc1", lambda b: tuple(f"{layer(b)}.mlp.{x}_proj" for x in ("gate", "up")), 2)
                if gated
                else _layer(f"{_BLOCK}/mlp/fc1", lambda b: f"{layer(b)}.mlp.up_proj")
            ),
            *_layer(f"{_BLOCK}/mlp/fc2", lambda b: f"{layer(b)}.mlp.down_proj"),
        ),
        prefixes=("model.", "dinov3_vit.", "backbone."),
        heads=r"(classifier|head)\..*|embeddings\.mask_token",
    )


def _clip() -> Convention:
    """CLIPVisionModel and SiglipVisionModel of transformers."""

    def layer(b: int) -> str:
        return f"encoder.layers.{b - 1}"

    return Convention(
        "transformers",
        rules=(
            *_layer("patch", lambda: "embeddings.patch_embedding", CONV),
            Rule("class_token", lambda: "embeddings.class_embedding", _SINGLE),
            Rule("position", lambda: "embeddings.position_embedding.weight"),
            *_norm("pre_norm", lambda: "pre_layrnorm"),  # spelt like this
            *_norm("norm", lambda: "post_layernorm"),
            *_norm(rf"{_BLOCK}/norm(\d)", lambda b, n: f"{layer(b)}.layer_norm{n}"),
            *_layers(f"{_BLOCK}/attention/qkv", lambda b: tuple(f"{layer(b)}.self_attn.{x}_proj" for x in "qkv"), 3),
            *_layer(f"{_BLOCK}/attention/out", lambda b: f"{layer(b)}.self_attn.out_proj"),
            *_layer(rf"{_BLOCK}/mlp/fc(\d)", lambda b, n: f"{layer(b)}.mlp.fc{n}"),
        ),
        prefixes=("vision_model.",),
        heads=r"(visual_projection|classifier|head)\..*",
        ignored=r"embeddings\.position_ids",
    )


def _open_clip() -> Convention:
    def layer(b: int) -> str:
        return f"transformer.resblocks.{b - 1}"

    return Convention(
        "open_clip",
        rules=(
            *_layer("patch", lambda: "conv1", CONV),
            Rule("class_token", lambda: "class_embedding", _SINGLE),
            Rule("position", lambda: "positional_embedding"),
            *_norm("pre_norm", lambda: "ln_pre"),
            *_norm("norm", lambda: "ln_post"),
            *_norm(rf"{_BLOCK}/norm(\d)", lambda b, n: f"{layer(b)}.ln_{n}"),
            Rule(f"{_BLOCK}/attention/qkv/kernel", lambda b: f"{layer(b)}.attn.in_proj_weight", LINEAR),
            Rule(f"{_BLOCK}/attention/qkv/bias", lambda b: f"{layer(b)}.attn.in_proj_bias"),
            *_layer(f"{_BLOCK}/attention/out", lambda b: f"{layer(b)}.attn.out_proj"),
            *_layer(f"{_BLOCK}/mlp/fc1", lambda b: f"{layer(b)}.mlp.c_fc"),
            *_layer(f"{_BLOCK}/mlp/fc2", lambda b: f"{layer(b)}.mlp.c_proj"),
        ),
        prefixes=("visual.", "module.visual."),
        heads=r"proj",
    )


def _npz(name: str, parts: ViTParts) -> Convention:
    """Files of Google's vision_transformer ("AugReg"), or of its successor big_vision; kernels are as those here."""
    old = name == "AugReg"
    attention, norm2, mlp = (1, 2, 3) if old else (0, 1, 0)
    heads, each = parts.heads, parts.channels // parts.heads

    def block(b: int) -> str:
        return f"Transformer/encoderblock_{b - 1}"

    def attends(b: int) -> str:
        return f"{block(b)}/MultiHeadDotProductAttention_{attention}"

    def split(ours: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(x.reshape(*x.shape[:-1], heads, each) for x in np.split(ours, 3, axis=-1))

    def join(given: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([x.reshape(*x.shape[:-2], heads * each) for x in given], axis=-1)

    qkv = Form(lambda given, shape: join(list(given)), split)
    out = Form(lambda given, shape: given[0].reshape(shape), lambda ours: (ours.reshape(heads, each, parts.channels),))
    position = "Transformer/posembed_input/pos_embedding" if old else "pos_embedding"

    def same(ours: str, theirs: Callable[..., str], form: Form = SAME) -> tuple[Rule, ...]:
        return (
            Rule(f"{ours}/kernel", lambda *g: f"{theirs(*g)}/kernel", form),
            Rule(f"{ours}/scale", lambda *g: f"{theirs(*g)}/scale"),
            Rule(f"{ours}/bias", lambda *g: f"{theirs(*g)}/bias"),
        )

    def three(kind: str) -> Callable[..., tuple[str, ...]]:
        return lambda b: tuple(f"{attends(b)}/{x}/{kind}" for x in ("query", "key", "value"))

    return Convention(
        name,
        rules=(
            *same("patch", lambda: "embedding"),
            Rule("class_token", lambda: "cls", _BATCHED),
            Rule("position", lambda: position, _BATCHED),
            *same("norm", lambda: "Transformer/encoder_norm"),
            *same(f"{_BLOCK}/norm1", lambda b: f"{block(b)}/LayerNorm_0"),
            *same(f"{_BLOCK}/norm2", lambda b: f"{block(b)}/LayerNorm_{norm2}"),
            Rule(f"{_BLOCK}/attention/qkv/kernel", three("kernel"), qkv),
            Rule(f"{_BLOCK}/attention/qkv/bias", three("bias"), qkv),
            *same(f"{_BLOCK}/attention/out", lambda b: f"{attends(b)}/out", out),
            *same(rf"{_BLOCK}/mlp/fc(\d)", lambda b, n: f"{block(b)}/MlpBlock_{mlp}/Dense_{n - 1}"),
        ),
        prefixes=("opt/target/",) if old else ("params/img/", "params/"),
        heads=r"(head|pre_logits|MAPHead_0)/.*",
    )
