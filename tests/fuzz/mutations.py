"""Seeded damage to files: what disks, editors, half copies and other programs do to them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 10**30, 0.5, -1e300, float("nan"), float("inf")),
    *("", "x", "\0", "../..", "é\ud800", "1", "nan", "truth", [], {}, [[]], {"x": 1}, ["x"], [0], [None]),
)


def mutate(rng: random.Random, file: Path, others: list[Path]) -> str:
    """Changes one file, or what stands in its place, and says how."""
    kinds: list[Callable[[random.Random, Path, list[Path]], str]] = [*BYTES, *BYTES, *PLACES]
    if file.suffix == ".json":
        kinds += [in_json] * 2 * len(BYTES)
    kind = rng.choice(kinds)
    return f"{kind.__name__} {kind(rng, file, others)} in {file}"


def flip_bits(rng: random.Random, file: Path, others: list[Path]) -> str:
    data, places = bytearray(file.read_bytes()), []
    for _ in range(rng.choice([1, 1, 1, 8]) if data else 0):
        places.append(rng.randrange(len(data)))
        data[places[-1]] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"at {places}"


def cut(rng: random.Random, file: Path, others: list[Path]) -> str:
    data = file.read_bytes()
    end = rng.choice([0, len(data) // 2, max(0, len(data) - 1), rng.randrange(len(data) + 1)])
    file.write_bytes(data[:end])
    return f"at {end} of {len(data)}"


def append(rng: random.Random, file: Path, others: list[Path]) -> str:
    data = file.read_bytes()
    file.write_bytes(data + rng.choice([b"\0" * 100, b"\xff", b"{}", b"\n", data, rng.randbytes(100)]))
    return ""


def overwrite(rng: random.Random, file: Path, others: list[Path]) -> str:
    """A lost block, as of a disk: zeros, or what another file had there."""
    data = bytearray(file.read_bytes())
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice([1, 16, 512, 4096]))
    data[start:end] = rng.choice([bytes, rng.randbytes])(end - start)
    file.write_bytes(data)
    return f"from {start} to {end} of {len(data)}"


def insert(rng: random.Random, file: Path, others: list[Path]) -> str:
    data = file.read_bytes()
    at = rng.randrange(len(data) + 1)
    file.write_bytes(data[:at] + rng.choice([b"\xff\xfe", b"\0", b"9", b"-", b'"', b"}", b"\xef\xbb\xbf"]) + data[at:])
    return f"at {at}"


def of_another(rng: random.Random, file: Path, others: list[Path]) -> str:
    other = rng.choice(others)
    data = other.read_bytes()
    file.write_bytes(data)
    return f"of {other.name}"


def remove(rng: random.Random, file: Path, others: list[Path]) -> str:
    file.unlink()
    return ""


def replace(rng: random.Random, file: Path, others: list[Path]) -> str:
    """Something that is no file."""
    file.unlink()
    kind = rng.choice(["pipe", "folder", "loop", "device", "nothing"])
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "loop":
            file.symlink_to(file.name)
        case "device":
            file.symlink_to("/dev/null")
        case "nothing":
            file.symlink_to("nothing")
    return kind


def remove_folder(rng: random.Random, file: Path, others: list[Path]) -> str:
    shutil.rmtree(file.parent)
    return ""


def in_json(rng: random.Random, file: Path, others: list[Path]) -> str:
    """One value, key or entry: another type, gone, twice."""
    try:
        root = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return flip_bits(rng, file, others)
    if rng.random() < 0.1:
        new = rng.choice([*ODD, [root], {"x": root}])
        file.write_text(json.dumps(new), encoding="utf-8")
        return f"all is {new!r:.60}"
    node: Any = root
    path: list[Any] = []
    while True:
        if not isinstance(node, dict | list) or not node:
            break
        key = rng.choice([*node] if isinstance(node, dict) else range(len(node)))
        path.append(key)
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.25:
            break
        node = node[key]
    if not path:
        return flip_bits(rng, file, others)
    kind = rng.choice(["odd", "odd", "odd", "gone", "new", "near"])
    new = rng.choice(ODD)
    value = node[path[-1]]
    if kind == "gone":
        del node[path[-1]]
    elif kind == "new" and isinstance(node, dict):
        node["x"] = new
    elif kind == "new":
        node.append(value)
    elif kind == "near" and isinstance(value, int | float):
        new = node[path[-1]] = value + rng.choice([-1, 1])
    elif kind == "near" and isinstance(value, str):
        new = node[path[-1]] = value + "x"
    else:
        node[path[-1]] = new
    file.write_text(json.dumps(root), encoding="utf-8")
    return f"{path} {kind} {new!r:.60}"


BYTES = (flip_bits, flip_bits, cut, cut, append, overwrite, insert)
PLACES = (of_another, remove, replace, replace, remove_folder)
