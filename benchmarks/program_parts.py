"""Which part of the network the memory and the time of a compiled program go to.

python benchmarks/program_parts.py runs/student/compile/v5e-2x2/train.hlo.txt [--largest=0]

The file is one that the stage `compile` writes. Temporaries: what lies in the HBM at the moment when most does, without
the padding of layouts. Time: the compiler's own estimate of cycles, which a chip may or may not need.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from must_jax.compiling.hlo import Instruction, Program

PARTS = ("stem", "stage1", "stage2", "stage3", "stage4", "FPN", "DetectorHead", "DenseHead", "PooledLinearHead")
SAME_BUFFER = ("bitcast", "get-tuple-element", "tuple", "opt-barrier")
CYCLES = re.compile(r'"estimated_cycles":"(\d{1,12})"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--largest", type=int, default=0, help="also list so many of the largest temporaries")
    args = parser.parse_args()
    schedule = Program(args.program.read_text(encoding="utf-8")).schedule

    alive = at_peak(schedule)
    memory, total = Counter[str](), sum(alive.values())
    sources = sources_of(schedule)
    for name, size in alive.items():
        memory[part(sources[name])] += size
    cycles = Counter[str]()
    for instruction in schedule:
        if found := CYCLES.search(instruction.text):
            cycles[part(sources[instruction.name])] += int(found[1])
    print(f"{'part':20}{'temporaries':>14}{'share':>8}{'cycles':>16}{'share':>8}")
    for name in sorted({*memory, *cycles}, key=lambda name: -memory[name]):
        print(f"{name:20}{memory[name] / 2**30:10.2f} GiB{memory[name] / max(total, 1):8.0%}", end="")
        print(f"{cycles[name]:16,}{cycles[name] / max(cycles.total(), 1):8.0%}")
    print(f"{'all':20}{total / 2**30:10.2f} GiB{'':8}{cycles.total():16,}")
    for name, size in sorted(alive.items(), key=lambda each: -each[1])[: args.largest]:
        print(f"{size / 2**20:8.0f} MiB  {sources[name]}")


def at_peak(schedule: list[Instruction]) -> dict[str, int]:
    """Instruction -> bytes of its result, of all that exist when most bytes do. Arguments do not count."""
    buffers: dict[str, set[str]] = {}  # name -> the instructions whose results it stands for
    sizes: dict[str, int] = {}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, instruction in enumerate(schedule):
        for operand in instruction.operands:
            last |= dict.fromkeys(buffers.get(operand, ()), index)
        operation = instruction.operation
        if operation in SAME_BUFFER or operation.endswith("-done"):
            buffers[instruction.name] = set().union(*(buffers.get(name, set()) for name in instruction.operands))
        elif operation not in ("parameter", "constant"):
            buffers[instruction.name] = {instruction.name}
            sizes[instruction.name], first[instruction.name] = result_bytes(instruction), index
    change = [0] * (len(schedule) + 1)
    for name, size in sizes.items():
        change[first[name]] += size
        change[last.get(name, first[name]) + 1] -= size
    peak = at = now = 0
    for index, difference in enumerate(change):
        now += difference
        if now > peak:
            peak, at = now, index
    return {name: size for name, size in sizes.items() if size and first[name] <= at <= last.get(name, first[name])}


def result_bytes(instruction: Instruction) -> int:
    """In the HBM; what begins a copy lists both ends, of which the source is there already."""
    arrays = [array for array in instruction.result if array.bytes > 8]
    if instruction.operation == "copy-start":
        arrays = arrays[:1]
    elif instruction.operation == "slice-start":
        arrays = arrays[-1:]
    return sum(array.bytes for array in arrays if array.in_hbm)


def sources_of(schedule: list[Instruction]) -> dict[str, str]:
    """Where each instruction comes from; copies, which do not say it, have the source of what they copy."""
    sources: dict[str, str] = {}
    for instruction in schedule:
        inherited = (sources.get(name, "") for name in instruction.operands)
        sources[instruction.name] = instruction.source or next(filter(None, inherited), "")
    return sources


def part(source: str) -> str:
    return next((name for name in PARTS if name in source), "ResNet's pooling" if "ResNet" in source else "other")


if __name__ == "__main__":
    main()
