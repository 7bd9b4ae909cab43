"""Programs that a thread compiles while something else is done, so that nothing waits for them later."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import jax


def compiled(compiler: Executor, function: jax.stages.Wrapped, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """`function` for arguments like these, as `jax.ShapeDtypeStruct`s; `compiler` begins now, and a call waits for it.

    What goes wrong with the compilation is raised by the call.
    """
    program = compiler.submit(lambda: function.lower(*arguments).compile())
    return lambda *given: program.result()(*given)
