"""The training state: a plain dict of arrays, so that checkpoints never depend on a model library.

{"params", "stats", "opt_state", "ema": {"params", "stats"} or {}}
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from must_jax.engine.mesh import put, state_shardings
from must_jax.engine.optimizers import Optimizer

State = dict[str, Any]
Variables = dict[str, Any]  # {"params": tree, "stats": tree}


def init_state(variables: Variables, optimizer: Optimizer, mesh: Mesh, *, ema: bool) -> State:
    """The state at step 0 from `variables`, laid out over the devices of the mesh (`state_shardings`)."""
    weights = {"params": variables["params"], "stats": variables["stats"]}
    shardings = state_shardings(mesh, weights)
    placed = put(weights, shardings)
    of_optimizer = state_shardings(mesh, jax.eval_shape(optimizer.init, weights["params"]))
    opt_state = jax.jit(optimizer.init, out_shardings=of_optimizer)(placed["params"])
    return {**placed, "opt_state": opt_state, "ema": put(weights, shardings) if ema else {}}


def state_shapes(variables: Variables, optimizer: Optimizer, *, ema: bool) -> State:
    """The shapes of what `init_state` returns for `variables` of these shapes, all `jax.ShapeDtypeStruct`s."""
    opt_state = jax.eval_shape(optimizer.init, variables["params"])
    return {**variables, "opt_state": opt_state, "ema": dict(variables) if ema else {}}


def trained_variables(state: State) -> Variables:
    """The variables to evaluate and pass on: the moving average if there is one."""
    return state["ema"] or {"params": state["params"], "stats": state["stats"]}


def count_parameters(params: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def digest(tree: Any) -> str:
    """sha256 over names, shapes and bytes of all arrays of a tree."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        sha.update(f"{jax.tree_util.keystr(path)}{leaf.dtype}{leaf.shape}".encode())
        sha.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
