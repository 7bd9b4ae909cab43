"""Programs that a thread compiles while something else is done, so that nothing waits for them later."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import jax


def shapes_of(tree: Any) -> Any:
    """`jax.ShapeDtypeStruct`s for the arrays of a tree."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)


class PendingProgram:
    """`function` for arguments like these, `jax.ShapeDtypeStruct`s; `compiler` begins now, and a call waits for it.

    What goes wrong with the compilation is raised by the call.
    """

    def __init__(self, compiler: Executor, function: jax.stages.Wrapped, arguments: tuple[Any, ...]) -> None:
        self._traced = compiler.submit(lambda: function.trace(*arguments))
        self._compiled = compiler.submit(lambda: self._traced.result().lower().compile())

    def trace(self, *_: Any) -> jax.stages.Traced:
        """Like `jax.stages.Wrapped.trace`, for the arguments that are known already."""
        return self._traced.result()

    def __call__(self, *arguments: Any) -> Any:
        return self._compiled.result()(*arguments)
