"""A finished run as files that timm, transformers, onnxruntime and any StableHLO runtime open.

Data: the images that the run was validated on, of which 200 are compared.
Expected: in runs/export a folder for each format, README.md with lines that load each, parity.json. A file that gives
other numbers than the run is not handed out.
Needs: pip install 'must_jax[export]', or the extras of single formats.

  python -m must_jax.main --config=configs/export.py --config.model=runs/student --config.formats=transformers,onnx
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "stage": "export",
            "data_dir": "data",
            "model": "runs/student",
            "formats": ("timm", "transformers", "onnx", "stablehlo"),
        }
    )
