"""What the text of a compiled program says: how chips talk to each other, and what goes through their memory.

XLA's own count of "bytes accessed" includes all that an operation touches, even what never leaves the chip's fast
memory: 656 MB for the quick start's student on v5e:2x2, while 26 MB go to and from the HBM.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_BITS = {"pred": 8, "token": 0} | {f"{kind}{bits}": bits for kind in "sufc" for bits in (4, 8, 16, 32, 64, 128)}
_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"%([\w.\-]+)")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_SOURCE = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,{}]*?)\}\}")
_COUNTED_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)|_computations?=\{?([^}]*?)\}")
# These move nothing, or what they move is counted where the move begins.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier", "partition-id"}
_MOVES = {"copy-start", "slice-start"}  # between the HBM and the fast memory


class Collective(NamedTuple):
    """All collectives of one kind.

    Attributes:
      times: how often one is executed.
      bytes: of their results on one chip.
      sent: bytes that one chip sends for them if they go around in a ring.
    """

    times: int
    bytes: int
    sent: float


class Array(NamedTuple):
    bytes: int
    in_hbm: bool


@dataclass(frozen=True)
class Instruction:
    name: str
    result: list[Array]
    operation: str
    operands: list[str]
    text: str  # operands and attributes

    @property
    def source(self) -> str:
        """The functions and modules that it comes from; for a fused operation, those of its last part; "" = unknown."""
        return found[1] if (found := _SOURCE.search(self.text)) else ""


class Program:
    """A compiled program (`Compiled.as_text()`), for one chip."""

    def __init__(self, text: str) -> None:
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self._computations.setdefault(header[1], [])
                self._entry = header[1] if line.startswith("ENTRY") else self._entry
            elif instruction := _read(line):
                current.append(instruction)

    @property
    def schedule(self) -> list[Instruction]:
        """The instructions in the order of execution; a fused operation or a loop is one instruction."""
        return self._computations[self._entry]

    def collectives(self, chips: int) -> dict[str, Collective]:
        """All collectives by kind; those inside loops count once per iteration.

        Args:
          chips: number of chips that run the program.
        """
        found: dict[str, Collective] = {}
        for instruction, times in self._executed(self._entry, 1, inside_fusions=True):
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                size = sum(array.bytes for array in _payload(instruction))
                group = _group_size(instruction.text) or chips
                if instruction.name in self._scattered:
                    kind, size = "reduce-scatter", size // group
                before = found.get(kind, Collective(0, 0, 0.0))
                sent = times * _sent(kind, size, group)
                found[kind] = Collective(before.times + times, before.bytes + times * size, before.sent + sent)
        return found

    def memory_traffic(self) -> int:
        """Bytes that the program reads from and writes to the HBM.

        Counts operands and results of every fused operation that are not in the fast memory, without the padding of
        their layout. An operand counts in full.
        """
        total = 0
        for instruction, times in self._executed(self._entry, 1, inside_fusions=False):
            total += times * self._moved(instruction)
        return total

    def _moved(self, instruction: Instruction) -> int:
        if instruction.operation in _FREE or instruction.operation.endswith("-done"):
            return 0
        if instruction.operation in _MOVES:
            # The result's tuple has both source and destination; of a slice, the destination is the smaller one.
            arrays = [array for array in instruction.result if array.bytes > 8]
            size = min((array.bytes for array in arrays), default=0)
            return size * sum(array.in_hbm for array in arrays)
        operands = [array for name in instruction.operands for array in self._results.get(name, [])]
        return sum(array.bytes for array in (*operands, *instruction.result) if array.in_hbm)

    @cached_property
    def _scattered(self) -> set[str]:
        """Names of sums of which each chip keeps only its share: a TPU compiler's form of a reduce-scatter."""
        fused = [each for name, each in self._computations.items() if name.startswith("all-reduce-scatter")]
        return {i.name for each in fused for i in each}

    @cached_property
    def _results(self) -> dict[str, list[Array]]:
        return {i.name: i.result for each in self._computations.values() for i in each}

    def _executed(self, name: str, times: int, *, inside_fusions: bool) -> Iterator[tuple[Instruction, int]]:
        for instruction in self._computations.get(name, []):
            if instruction.operation == "while":
                body, trips = _BODY.search(instruction.text), _TRIPS.search(instruction.text)
                turns = times * (int(trips[1]) if trips else 1)
                yield from self._executed(body[1] if body else "", turns, inside_fusions=inside_fusions)
                continue
            yield instruction, times
            for called in _called(instruction, inside_fusions):
                yield from self._executed(called, times, inside_fusions=inside_fusions)


def _read(line: str) -> Instruction | None:
    if " = " not in line:
        return None
    found = _INSTRUCTION.match(_COMMENT.sub("", line))
    if not found:
        return None
    name, result, operation, rest = found.groups()
    operands = _NAME.findall(rest.partition(")")[0])
    return Instruction(name, list(_arrays(result)), operation, operands, rest)


def _arrays(text: str) -> Iterator[Array]:
    for kind, sides, layout in _ARRAY.findall(text):
        bits = _BITS.get("f16" if kind == "bf16" else kind, 8)
        yield Array(math.prod(int(side) for side in sides.split(",") if side) * bits // 8, "S(" not in layout)


def _payload(instruction: Instruction) -> list[Array]:
    """The arrays of a collective's result. A "-start", except all-reduce's, lists its operands before them."""
    if instruction.operation.endswith("-start") and not instruction.operation.startswith("all-reduce"):
        operands = len(instruction.operands)
        return instruction.result[operands : 2 * operands]
    return instruction.result


def _group_size(text: str) -> int:
    """Number of chips in a collective's group, from its attributes; 0 = all chips."""
    if listed := _LISTED_GROUPS.search(text):  # {{0,1},{2,3}}
        return max(len(group.split(",")) for group in listed[1].split("},{"))
    if counted := _COUNTED_GROUPS.search(text):  # [2,4]<=[8]: two groups of four
        return int(counted[1])
    if axes := _MESH_GROUPS.search(text):  # mesh['a'=4,'b'=2] {'a'}; {'a':(1)2} is a part of an axis
        sides = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(part or sides[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2]))
    return 0


def _sent(kind: str, size: int, group: int) -> float:
    """Bytes that a chip sends for a result of `size` bytes on it, if everything goes around in a ring of its group.

    It sends one chip's share of the whole `group` - 1 times; for an all-reduce, twice as often: first to sum the
    shares, then to gather them.
    """
    if kind == "collective-permute":
        return size
    whole = size * group if kind == "reduce-scatter" else size
    return (2 if kind == "all-reduce" else 1) * whole * (group - 1) / group


def _called(instruction: Instruction, inside_fusions: bool) -> list[str]:
    if instruction.operation in ("conditional", "call") or (inside_fusions and "calls=" in instruction.text):
        found = _CALLED.findall(instruction.text)
        return [name for single, many in found for name in (single, *_NAME.findall(many)) if name]
    return []
