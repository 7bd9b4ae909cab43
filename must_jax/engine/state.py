"""The training state: a plain dict of arrays, so that checkpoints never depend on a model library.

{"params", "stats", "opt_state", "ema": {"params", "stats"} or {}}
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from must_jax.engine.mesh import put_replicated, replicated

State = dict[str, Any]
Variables = dict[str, Any]  # {"params": tree, "stats": tree}


def init_state(variables: Variables, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool) -> State:
    """Step 0 from `variables`, copied onto every device of the mesh."""
    weights = put_replicated(mesh, {"params": variables["params"], "stats": variables["stats"]})
    opt_state = jax.jit(optimizer.init, out_shardings=replicated(mesh))(weights["params"])
    return {**weights, "opt_state": opt_state, "ema": put_replicated(mesh, weights) if ema else {}}


def trained_variables(state: State) -> Variables:
    """What to evaluate and hand on: the moving average where there is one."""
    return state["ema"] or {"params": state["params"], "stats": state["stats"]}


def count_parameters(params: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def digest(params: Any) -> str:
    """sha256 over names, shapes and bytes of all parameters."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        sha.update(f"{jax.tree_util.keystr(path)}{leaf.dtype}{leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()
