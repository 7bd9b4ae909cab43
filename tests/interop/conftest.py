"""Tests with the libraries of others, collected where all of these are installed: `pip install -e '.[test,interop]'`.

`.ci/run` has an environment for them, where pytest fails if it finds no test.
"""

from __future__ import annotations

import importlib.util

LIBRARIES = ("onnx", "onnxruntime", "safetensors", "timm", "torch", "torchvision", "transformers")

collect_ignore_glob = ["*.py"] if any(importlib.util.find_spec(name) is None for name in LIBRARIES) else []
