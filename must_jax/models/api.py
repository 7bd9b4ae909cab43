"""The seam between the networks and everything else: only plain nested dicts of arrays cross it.

variables = {"params": {"backbone", "fpn", "heads": {task: ...}}, "stats": the same with the norms' running statistics}.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from must_jax.config import ModelConfig
from must_jax.config.architectures import ARCHITECTURES, ConvNeXtParts, ResNetParts, ViTParts
from must_jax.errors import UserError, nearest
from must_jax.models import fpn
from must_jax.models.backbone import Backbone
from must_jax.models.convnext import ConvNeXt
from must_jax.models.fpn import FPN, fuse
from must_jax.models.layers import KEPT
from must_jax.models.rates import NEW
from must_jax.models.resnet import ResNet
from must_jax.models.vit import ViT

Variables = dict[str, Any]
Features = dict[str, jax.Array]
Outputs = dict[str, dict[str, jax.Array]]

SIZE_MULTIPLE = 32  # stride of C5
# Pixels of the input per cell: of the backbone's stages, then of the pyramid's levels.
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32, **dict(zip(fpn.LEVELS, fpn.STRIDES, strict=True))}
OF_HEADS = ("c5", *fpn.LEVELS)  # the levels that heads read
# By what they are made of.
_NETWORKS: dict[type, Callable[..., Backbone]] = {ResNetParts: ResNet, ViTParts: ViT, ConvNeXtParts: ConvNeXt}


@dataclass(frozen=True, eq=False)
class Model:
    """Backbone -> pyramid -> one head per task. Holds no arrays; make it with `build_model`.

    Attributes:
      mean, std: of RGB, 0..255, by which images are normalised.
      is_frozen: whether the backbone stays as it is in training; what is new in it learns.
    """

    backbone: Backbone
    fpn: FPN
    heads: dict[str, nn.Module]
    dtype: jnp.dtype
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_frozen: bool = False
    remat: frozenset[str] = frozenset()

    def shapes(self, input_hw: tuple[int, int]) -> Variables:
        """Shapes and types of what `init` returns; takes no memory."""
        _check_size(*input_hw)
        return _traced_shapes(self, input_hw)

    def init(self, rng: jax.Array, input_hw: tuple[int, int], *, identity_blocks: bool = True) -> Variables:
        """Fresh variables as NumPy arrays, all float32; `input_hw` is the size of the input in pixels.

        Every module is initialised by its own initialisers, from a key that depends on `rng` and its name, not on other
        heads; the network itself is not run.

        Args:
          identity_blocks: see `Backbone`.

        Raises:
          UserError: a side of the input is not a multiple of 32.
        """
        _check_size(*input_hw)
        backbone = self.backbone.clone(identity_blocks=identity_blocks)
        with jax.default_device(_host()):
            return jax.device_get(_init(replace(self, backbone=backbone), rng, input_hw))

    def apply(
        self, variables: Variables, images: jax.Array, *, train: bool, rng: jax.Array | None = None
    ) -> tuple[Outputs, Variables]:
        """u8|f32[B, H, W, 3] RGB, 0..255 -> (float32 outputs by task, statistics: new if `train`, else as given).

        Args:
          rng: a key for what is drawn in training (stochastic depth); None = nothing is, and views are always the same.
        """
        views = {name: head.views for name, head in self.heads.items() if hasattr(head, "views")}
        if views:
            return self._apply_to_views(variables, images, train, rng, views)
        features, trunk_stats = self._trunk(variables, images, train, rng)
        outputs, head_stats = self._heads(variables, features, train)
        return outputs, {**trunk_stats, "heads": head_stats}

    def of_images(self) -> Model:
        """The same without heads that see views: what is left of it to be used, once it is trained."""
        return replace(self, heads={name: head for name, head in self.heads.items() if not hasattr(head, "views")})

    def _apply_to_views(
        self, variables: Variables, images: jax.Array, train: bool, rng: jax.Array | None, views: Mapping[str, Any]
    ) -> tuple[Outputs, Variables]:
        """`apply`, with heads that see views of the images: the trunk sees all of them in one batch."""
        key = jax.random.key(0) if rng is None else rng
        seen: dict[tuple[str, ...], jax.Array] = {
            (name,): draw(images, jax.random.fold_in(key, _number(name))) for name, draw in views.items()
        }
        if others := tuple(name for name in self.heads if name not in views):
            seen[others] = images.astype(jnp.float32)[:, None]
        # An image's views lie side by side, and so on one device.
        together = jnp.concatenate(list(seen.values()), 1)
        features, trunk_stats = self._trunk(variables, _as_rows(together), train, rng)
        outputs, head_stats, start = Outputs(), dict[str, Any](), 0
        for names, each in seen.items():
            chosen = slice(start, start := start + each.shape[1])
            of_heads = {x: _as_rows(_by_image(features[x], len(images))[:, chosen]) for x in OF_HEADS}
            found, new_stats = self._heads(variables, of_heads, train, names)
            outputs |= found if names == others else jax.tree.map(lambda x: _by_image(x, len(images)), found)
            head_stats |= new_stats
        return outputs, {**trunk_stats, "heads": head_stats}

    def features(self, variables: Variables, images: jax.Array, levels: Iterable[str] = OF_HEADS) -> Features:
        """These levels of `STRIDES` in inference mode, f32[B, h, w, C] each; by default what `apply_heads` needs."""
        features, _ = self._trunk(variables, images, train=False)
        return {level: features[level].astype(jnp.float32) for level in levels}

    def statistics(self, variables: Variables, images: jax.Array) -> Variables:
        """Means and variances of this batch at every norm of the trunk, in train mode: {"backbone", "fpn"}."""
        backbone, fpn = self.backbone.clone(momentum=0.0), self.fpn.clone(momentum=0.0)
        _, stats = replace(self, backbone=backbone, fpn=fpn)._trunk(variables, images, train=True)
        return stats

    def apply_heads(self, variables: Variables, features: Features, *, train: bool) -> tuple[Outputs, Variables]:
        """Like `apply`, but on what `features` returned; backbone and pyramid keep their statistics."""
        outputs, head_stats = self._heads(variables, features, train)
        return outputs, {**variables["stats"], "heads": head_stats}

    def seen_hw(self, input_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the backbone sees of such an input; see `Backbone.input_share`."""
        height, width = (round(side * self.backbone.input_share) for side in input_hw)
        return height, width

    def normalised(self, images: jax.Array) -> jax.Array:
        """u8|f32[B, H, W, 3] RGB, 0..255 -> `[B, h, w, 3]`, what the backbone sees, of its `seen_hw`."""
        batch, height, width, channels = images.shape
        _check_size(height, width)
        mean, std = (jnp.asarray(x, jnp.float32)[None, None, None] for x in (self.mean, self.std))
        x = (images.astype(jnp.float32) - mean) / std
        if (seen_hw := self.seen_hw((height, width))) != (height, width):
            x = jax.image.resize(x, (batch, *seen_hw, channels), "linear")
        return x.astype(self.dtype)

    def stages(self, variables: Variables, normalised: jax.Array) -> Features:
        """{"c2", ..., "c5"} of the backbone in inference mode."""
        params, stats = variables["params"]["backbone"], variables["stats"]["backbone"]
        stages, _ = _run(self.backbone, params, stats, normalised, False)
        return cast(Features, stages)

    def completed(self, variables: Variables, published: Features) -> Features:
        """The `Backbone.published` levels -> all that `stages` gives."""
        return self.backbone.completed(variables["params"]["backbone"], published)

    def apply_stages(self, variables: Variables, stages: Features) -> Outputs:
        """The outputs of `apply`, in inference mode, of what `stages` returned."""
        params, stats = variables["params"], variables["stats"]
        pyramid, _ = _run(self.fpn, params["fpn"], stats["fpn"], stages, False)
        return self._heads(variables, {**stages, **pyramid}, False)[0]

    def _trunk(
        self, variables: Variables, images: jax.Array, train: bool, rng: jax.Array | None = None
    ) -> tuple[Features, Variables]:
        x = self.normalised(images)
        params, stats = variables["params"], variables["stats"]
        learns = train and not self.is_frozen
        learnt = params["backbone"]
        if train and self.is_frozen:
            learnt = {name: part if name == NEW else jax.lax.stop_gradient(part) for name, part in learnt.items()}
        stages, backbone_stats = _run(self.backbone, learnt, stats["backbone"], x, learns, rng=rng)
        pyramid, fpn_stats = _run(self.fpn, params["fpn"], stats["fpn"], stages, train, "fpn" in self.remat)
        return {**stages, **pyramid}, {"backbone": backbone_stats, "fpn": fpn_stats}

    def _heads(
        self, variables: Variables, features: Features, train: bool, names: Iterable[str] | None = None
    ) -> tuple[Outputs, Variables]:
        features = {level: features[level].astype(self.dtype) for level in OF_HEADS}
        rows, columns = features["c5"].shape[1:3]
        features["fused"] = fuse(features, (rows * SIZE_MULTIPLE, columns * SIZE_MULTIPLE))
        outputs, new_stats = {}, {}
        for task in self.heads if names is None else names:
            params, stats = variables["params"]["heads"][task], variables["stats"]["heads"][task]
            head = self.heads[task]
            outputs[task], new_stats[task] = _run(head, params, stats, features, train, "heads" in self.remat)
        return outputs, new_stats


def check_levels(levels: Collection[str]) -> None:
    """Raises UserError for no level at all, or one that no model has."""
    if not levels:
        raise UserError(f"no level of features is named; {nearest('', STRIDES)}")
    for level in levels:
        if level not in STRIDES:
            raise UserError(f"there is no level '{level}' of features; {nearest(level, STRIDES)}")


def pool(features: Features, content: jax.Array, input_hw: tuple[int, int]) -> Features:
    """Means over the part of each map that its image covers: {level: f32[B, h, w, C]} -> {level: f32[B, C]}.

    Args:
      content: f32[B, 2], the shares of the input's rows and columns that are image, from the top left. A cell that the
        image covers in part counts in part.
      input_hw: the input's height and width in pixels.
    """

    def mean(level: str, maps: jax.Array) -> jax.Array:
        covered = content * (jnp.asarray(input_hw, jnp.float32) / STRIDES[level])[None]  # in cells
        rows, columns = (
            jnp.clip(covered[:, axis, None] - jnp.arange(cells, dtype=jnp.float32)[None], 0, 1)
            for axis, cells in enumerate(maps.shape[1:3])
        )
        weighted = maps * rows[:, :, None, None] * columns[:, None, :, None]
        return weighted.sum((1, 2)) / jnp.prod(covered, 1)[:, None]

    return {level: mean(level, maps) for level, maps in features.items()}


def build_model(
    config: ModelConfig, heads: Mapping[str, nn.Module], remat: Collection[str] = (), is_frozen: bool = False
) -> Model:
    """The network of `config` with the given head for each task (see `models/heads.py` for what a head is).

    Args:
      remat: parts, out of `config.REMAT`, whose activations are recomputed for the gradient: each block of a stage, the
        pyramid, each head. Neither variables nor results depend on it.
    """
    momentum, architecture = config.batch_norm_momentum, ARCHITECTURES[config.backbone]
    wide = {"width": config.width} if isinstance(architecture.parts, ResNetParts) else {}
    backbone = _NETWORKS[type(architecture.parts)](
        parts=architecture.parts, momentum=momentum, drop_path=config.drop_path, remat=tuple(remat), **wide
    )
    published = (config.mean or architecture.mean, config.std or architecture.std)
    mean, std = (tuple(round(255 * x, 6) for x in each) for each in published)
    return Model(
        backbone=backbone,
        fpn=FPN(config.pyramid_channels, momentum),
        heads=dict(heads),
        dtype=jnp.dtype(config.dtype),
        mean=mean,
        std=std,
        is_frozen=is_frozen,
        remat=frozenset(remat),
    )


TRUNK = ("backbone", "fpn")


def transfer(
    fresh: Variables, trained: Variables, parts: Collection[str] = TRUNK, heads: Collection[str] = ()
) -> Variables:
    """These parts of `trained`, and its heads of these tasks; the rest is that of `fresh`.

    Raises:
      UserError: a part differs in shape; the message names the parameters that do.
    """
    shapes = [
        _shapes({kind: {part: v[kind][part] for part in TRUNK if part in parts} for kind in ("params", "stats")})
        for v in (fresh, trained)
    ]
    differing = sorted(path for path, _ in shapes[0].items() ^ shapes[1].items())
    if differing:
        raise UserError(
            "the trained run has another backbone or pyramid, set config.model to what it was trained with; different: "
            + ", ".join(dict.fromkeys(differing))
        )
    return {
        kind: {
            **{part: (trained if part in parts else fresh)[kind][part] for part in TRUNK},
            "heads": {
                task: (trained if task in heads else fresh)[kind]["heads"][task] for task in fresh[kind]["heads"]
            },
        }
        for kind in fresh
    }


def same_head(some: Variables, other: Variables, task: str) -> bool:
    """Whether both have a head for the task, of the same shapes."""
    heads = [{kind: v[kind]["heads"].get(task) for kind in ("params", "stats")} for v in (some, other)]
    return all(head["params"] is not None for head in heads) and _shapes(heads[0]) == _shapes(heads[1])


@lru_cache(maxsize=8)  # a stage asks several times, and tracing takes a while
def _traced_shapes(model: Model, input_hw: tuple[int, int]) -> Variables:
    return jax.eval_shape(lambda: _init(model, jax.random.key(0), input_hw))


def _init(model: Model, rng: jax.Array, input_hw: tuple[int, int]) -> Variables:
    def start(module: nn.Module, name: str, inputs: Any) -> tuple[Any, Variables]:
        """The shapes of the outputs, and the variables."""
        outputs = []

        def call(module: Any, inputs: Any) -> None:
            outputs.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), module(inputs, False)))

        key = jax.random.fold_in(rng, _number(name))
        variables = module.lazy_init(key, inputs, method=call)
        return outputs[0], {"params": variables["params"], "stats": variables.get("stats", {})}

    images = jax.ShapeDtypeStruct((1, *model.seen_hw(input_hw), 3), model.dtype)
    # Without remat, which would trace the initialisers.
    stages, backbone = start(model.backbone.clone(remat=()), "backbone", images)
    pyramid, fpn = start(model.fpn, "fpn", stages)
    features = {"c5": stages["c5"], **pyramid, "fused": jax.eval_shape(partial(fuse, input_hw=input_hw), pyramid)}
    heads = {task: start(head, task, features)[1] for task, head in model.heads.items()}
    return {
        kind: {"backbone": backbone[kind], "fpn": fpn[kind], "heads": {task: v[kind] for task, v in heads.items()}}
        for kind in ("params", "stats")
    }


def _host() -> jax.Device | None:
    """A CPU: there, flax's two hundred tiny programs of an initialisation are compiled in a second or two."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return None


def _run(
    module: nn.Module,
    params: Any,
    stats: Any,
    inputs: Any,
    train: bool,
    remat: bool = False,
    rng: jax.Array | None = None,
) -> tuple[Any, Any]:
    if not train:
        return module.apply({"params": params, "stats": stats}, inputs, False), stats
    rngs = None if rng is None else {"drop_path": rng}

    def forward(params: Any, stats: Any, inputs: Any) -> tuple[Any, Any]:
        outputs, updated = module.apply({"params": params, "stats": stats}, inputs, True, mutable=["stats"], rngs=rngs)
        return outputs, updated.get("stats", stats)

    if remat:
        forward = jax.checkpoint(forward, policy=KEPT)
    return forward(params, stats, inputs)


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _by_image(x: jax.Array, images: int) -> jax.Array:
    """[B * n, ...] -> [B, n, ...]"""
    return x.reshape(images, -1, *x.shape[1:])


def _as_rows(x: jax.Array) -> jax.Array:
    """[B, n, ...] -> [B * n, ...]"""
    return x.reshape(-1, *x.shape[2:])


def _check_size(height: int, width: int) -> None:
    if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or 0 in (height, width):
        raise UserError(
            f"images of {height} x {width} pixels do not fit; set image_size to what is a multiple of {SIZE_MULTIPLE}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in paths}
