"""Do exported files open where must_jax is not installed, with the same numbers?

python benchmarks/fresh_environments.py EXPORT [--model=runs/student]

For each format in the folder EXPORT (configs/export.py) uv makes a new environment with nothing but its runtime; there
the file answers to eight images, and what it says is compared with the run. Packages come from the network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from must_jax import trained
from must_jax.exporting.base import BACKBONE, Network

PACKAGES = {
    "timm": ["timm"],
    "transformers": ["transformers", "torch", "pillow", "torchvision"],
    "onnx": ["onnxruntime"],
    "stablehlo": ["jax", "flatbuffers"],
}
START = """
import importlib.util, numpy as np
assert importlib.util.find_spec("must_jax") is None
given = np.load("{given}")
"""
CODE = {
    "timm": """
import timm, torch
model = timm.create_model("local-dir:timm", pretrained=True).eval()
prefix = getattr(model, "num_prefix_tokens", 0)
call = {"indices": 1, "norm": True} if hasattr(model, "patch_embed") else {"indices": 4}
with torch.inference_mode():
    images = torch.tensor(given["prepared"].transpose(0, 3, 1, 2))
    maps = model.forward_intermediates(images, intermediates_only=True, **call)
found = [each.permute(0, 2, 3, 1).numpy() for each in maps]
""",
    "transformers": """
import torch, transformers
model = transformers.AutoModel.from_pretrained("transformers", local_files_only=True).eval()
with torch.inference_mode():
    outputs = model(torch.tensor(given["prepared"].transpose(0, 3, 1, 2)), output_hidden_states=True)
found = [each.permute(0, 2, 3, 1).numpy() for each in outputs.hidden_states[-4:]]
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession("onnx/backbone.onnx", providers=["CPUExecutionProvider"])
found = session.run(["c2", "c3", "c4", "c5"], {"images": given["images"]})
""",
    "stablehlo": """
import jax, pathlib
exported = jax.export.deserialize(bytearray(pathlib.Path("stablehlo/backbone.stablehlo").read_bytes()))
outputs = exported.call(given["images"])
found = [np.asarray(outputs[level]) for level in ("c2", "c3", "c4", "c5")]
""",
}
END = """
levels = [given[level] for level in given.files if level.startswith("c")]
assert len(found) == len(levels)
off = [float(np.abs(ours - theirs).max() / np.abs(ours).max()) for ours, theirs in zip(levels, found)]
print(max(off))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--model", default="", help="the run that was exported; by default as the export says")
    args = parser.parse_args()
    model = args.model or json.loads((args.export / "config.json").read_text())["model"]
    network = Network(trained.load(model))
    images = np.random.default_rng(0).integers(0, 256, (8, *network.input_hw, 3)).astype(np.uint8)
    prepared = np.asarray(jax.jit(network.normalised)(images))
    with tempfile.TemporaryDirectory() as folder:
        for name, packages in PACKAGES.items():
            if not (args.export / name).is_dir():
                continue
            levels = network.published if name in ("timm", "transformers") else ("c2", "c3", "c4", "c5")
            expected = jax.jit(network.function(BACKBONE, is_prepared=False, levels=levels))(images)
            np.savez(given := Path(folder) / f"{name}.npz", images=images, prepared=prepared, **expected)
            python = Path(folder) / name / "bin/python"
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, python.parents[1]], check=True)
            subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
            code = START.format(given=given) + CODE[name] + END
            clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            done = subprocess.run(
                [python, "-c", code], cwd=args.export, env=clean, check=True, stdout=subprocess.PIPE, text=True
            )
            print(
                f"{name:13} within {float(done.stdout.split()[-1]):.1e} of the largest number, on 8 images", flush=True
            )


if __name__ == "__main__":
    main()
