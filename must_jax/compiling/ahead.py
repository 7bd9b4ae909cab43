"""Programs compiled ahead of time, for chips that are not attached, and what is known about them before they run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from must_jax.chips import Chip
from must_jax.compiling.hlo import Collective, Program
from must_jax.compiling.topology import without_cache
from must_jax.errors import is_out_of_memory

# Top-level keys of a state or of variables -> their names for a reader. All other arguments are the batch.
_KINDS = {"params": "parameters", "stats": "statistics", "opt_state": "optimizer", "ema": "moving average"}
BATCH, PADDING = "batch", "padding of the above"


class OutOfMemory(Exception):
    """A program needs more memory than a chip has."""


@dataclass(frozen=True)
class Step:
    """A jitted function and the shapes of its arguments.

    Attributes:
      images: number of images that all chips together process.
      parts: number of parts they are split into, for a loop around nearly all of the work. The compiler counts the
        operations of the loop's body once.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    images: int
    parts: int = 1


@dataclass(frozen=True)
class Facts:
    """A compiled program on one of `chips` equal chips.

    Attributes:
      images: number that one chip processes.
      memory: kind -> bytes; the sum is what the program occupies. Parameters and the rest of the state are updated in
        place.
      flops: floating-point operations: the compiler's count, in which a loop's body counts once, times `Step.parts`.
      memory_traffic: bytes read from and written to the chip's memory.
      collectives: by kind.
      compile_seconds: how long compilation took here.
    """

    chips: int
    images: float
    memory: Mapping[str, int]
    flops: float
    memory_traffic: int
    collectives: Mapping[str, Collective]
    compile_seconds: float

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())

    def seconds(self, chip: Chip) -> float:
        """The least time of a run: the larger of operations over peak and memory traffic over bandwidth."""
        return max(self.flops / chip.peak_flops, self.memory_traffic / chip.memory_bandwidth)

    def images_per_second(self, chip: Chip) -> float:
        """Images per second of one chip at that bound."""
        return self.images / self.seconds(chip)

    def collective_seconds(self, chip: Chip) -> float:
        """The least time on the links, if communication does not overlap with work."""
        return sum(each.sent for each in self.collectives.values()) / chip.link_bandwidth


def compile_ahead(step: Step, chip: Chip, chips: int) -> tuple[Facts, str]:
    """Compiles a step whose shardings are over the `chips` chips of a topology; also returns the program as text.

    Raises:
      OutOfMemory: the program does not fit.
    """
    began = time.perf_counter()
    try:
        with without_cache():
            compiled = step.function.lower(*step.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")) from None
    seconds = time.perf_counter() - began
    text = compiled.as_text()
    program = Program(text)
    facts = Facts(
        chips=chips,
        images=step.images / chips,
        memory=memory_of(compiled, step.arguments),
        flops=step.parts * compiled.cost_analysis()["flops"],
        memory_traffic=program.memory_traffic(),
        collectives=program.collectives(chips),
        compile_seconds=seconds,
    )
    if facts.memory_bytes > chip.memory_bytes:
        raise OutOfMemory(f"it takes {facts.memory_bytes / 2**30:.1f}G of {chip.memory_bytes / 2**30:.1f}G")
    return facts, text


def memory_of(compiled: jax.stages.Compiled, arguments: tuple[Any, ...]) -> dict[str, int]:
    """Bytes by kind: first those of `_KINDS`, then the batch, then what exists only while the program runs."""
    found = dict.fromkeys([*_KINDS.values(), BATCH], 0)
    shardings = jax.tree.leaves(compiled.input_shardings[0], is_leaf=lambda sharding: sharding is None)
    leaves = jax.tree_util.tree_leaves_with_path(arguments)
    for (path, leaf), sharding in zip(leaves, shardings, strict=True):
        if sharding is None:  # unused, so not part of the program
            continue
        kind = _KINDS.get(getattr(path[1], "key", ""), BATCH) if len(path) > 1 else BATCH
        found[kind] += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    told: Any = compiled.memory_analysis()
    found[PADDING] = max(0, told.argument_size_in_bytes - sum(found.values()))
    found["results"] = max(0, told.output_size_in_bytes - told.alias_size_in_bytes)
    found["activations and other temporaries"] = told.temp_size_in_bytes
    found["program"] = told.generated_code_size_in_bytes
    return {kind: size for kind, size in found.items() if size}
