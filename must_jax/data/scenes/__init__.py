"""The embedded dataset: rendered rooms with exact ground truth for all tasks, nothing to download."""

from must_jax.data.scenes.builder import Scenes, prepare, rendering_ahead
from must_jax.data.scenes.configs import CONFIGS, SceneConfig, render_image
from must_jax.data.scenes.domains import HELD_OUT, MATERIALS, TRAINING, Domain, sample_scene, single
from must_jax.data.scenes.renderer import Camera, Rendering, Scene, render

__all__ = [
    "CONFIGS",
    "HELD_OUT",
    "MATERIALS",
    "TRAINING",
    "Camera",
    "Domain",
    "Rendering",
    "Scene",
    "SceneConfig",
    "Scenes",
    "prepare",
    "render",
    "render_image",
    "rendering_ahead",
    "sample_scene",
    "single",
]
