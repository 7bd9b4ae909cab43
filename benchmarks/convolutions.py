"""GFLOP/s of single convolutions on one core of a CPU: forward and both gradients, as XLA and as PyTorch compute them.

python benchmarks/convolutions.py [--rounds=3]

The shapes are those of a ResNet-50-FPN with its heads at 224 pixels, four images. Three ways: XLA's convolution; what
`models.layers.convolve` makes of it (1x1 ones are matrix products); PyTorch (oneDNN, channels_last), if it is there.
CPU time of the fastest of a few calls on one thread, which other programs hardly disturb. The last line is the sum over
a network, each shape as often as it occurs in it: what convolutions alone allow.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

IMAGES = 4
# (rows and columns of the input, its channels, channels of the output, kernel, stride, how often it occurs)
SHAPES = [
    (56, 64, 64, 1, 1, 1),
    (56, 64, 256, 1, 1, 4),
    (56, 256, 64, 1, 1, 2),
    (56, 256, 128, 1, 1, 1),
    (28, 128, 512, 1, 1, 4),
    (28, 512, 128, 1, 1, 3),
    (28, 512, 256, 1, 1, 1),
    (14, 256, 1024, 1, 1, 6),
    (14, 1024, 256, 1, 1, 5),
    (14, 1024, 512, 1, 1, 1),
    (7, 512, 2048, 1, 1, 3),
    (7, 2048, 512, 1, 1, 2),
    (56, 256, 512, 1, 2, 1),
    (28, 512, 1024, 1, 2, 1),
    (14, 1024, 2048, 1, 2, 1),
    (56, 64, 64, 3, 1, 3),
    (56, 128, 128, 3, 2, 1),
    (28, 128, 128, 3, 1, 3),
    (28, 256, 256, 3, 2, 1),
    (14, 256, 256, 3, 1, 5),
    (14, 512, 512, 3, 2, 1),
    (7, 512, 512, 3, 1, 2),
    (56, 256, 128, 3, 1, 3),  # heads
    (56, 128, 128, 3, 1, 6),
]
Calls = dict[str, Callable[[], Any]]  # "forward", "input" and "weights": the gradients by these


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before XLA counts the cores
    ways = {"XLA": xla_calls, "must_jax": must_jax_calls}
    if importlib.util.find_spec("torch"):
        ways["PyTorch"] = torch_calls
    totals = {way: np.zeros(3) for way in ways}
    print(f"{'':34s}" + "".join(f"{way:>27s}" for way in ways))
    print(f"{'input, channels, kernel, stride':34s}" + "    forward    input  weights" * len(ways))
    operations = 0
    for rows, c_in, c_out, kernel, stride, times in SHAPES:
        line = f"{rows:3d}x{rows:<3d} {c_in:5d} -> {c_out:5d}  {kernel}x{kernel}  {stride}"
        flops = 2 * IMAGES * (rows // stride + rows % stride) ** 2 * c_in * c_out * kernel**2
        operations += times * flops
        line = f"{line:34s}"
        for way, calls in ways.items():
            seconds = np.array([fastest(call, rounds) for call in calls(rows, c_in, c_out, kernel, stride).values()])
            totals[way] += times * seconds
            line += "  " + "".join(f"{rate:9.0f}" for rate in flops / seconds / 1e9)
        print(line)
    for way, seconds in totals.items():
        rates = ", ".join(f"{rate:.0f}" for rate in operations / seconds / 1e9)
        print(f"{way}: {seconds.sum():.2f} s for all of them, {rates} GFLOP/s forward, by input, by weights")


def fastest(call: Callable[[], Any], rounds: int) -> float:
    """Seconds of CPU time."""
    call()
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return min(seconds)


def xla_calls(*shape: int) -> Calls:
    import jax

    def convolution(x: Any, kernel: Any, stride: int) -> Any:
        pad = kernel.shape[0] // 2
        numbers = ("NHWC", "HWIO", "NHWC")
        strides, padding = (stride, stride), ((pad, pad), (pad, pad))
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)

    return _jax_calls(convolution, *shape)


def must_jax_calls(*shape: int) -> Calls:
    from must_jax.models.layers import convolve

    return _jax_calls(convolve, *shape)


def _jax_calls(function: Callable[..., Any], rows: int, c_in: int, c_out: int, kernel: int, stride: int) -> Calls:
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((IMAGES, rows, rows, c_in), np.float32))
    weights = jnp.asarray(0.01 * rng.standard_normal((kernel, kernel, c_in, c_out), np.float32))
    gradient = jnp.ones_like(function(x, weights, stride))

    def forward(x: Any, weights: Any) -> Any:
        return function(x, weights, stride)

    def by_input(x: Any, weights: Any, gradient: Any) -> Any:
        return jax.vjp(lambda x: forward(x, weights), x)[1](gradient)

    def by_weights(x: Any, weights: Any, gradient: Any) -> Any:
        return jax.vjp(lambda weights: forward(x, weights), weights)[1](gradient)

    compiled = {
        "forward": jax.jit(forward).lower(x, weights).compile(),
        "input": jax.jit(by_input, keep_unused=True).lower(x, weights, gradient).compile(),
        "weights": jax.jit(by_weights, keep_unused=True).lower(x, weights, gradient).compile(),
    }
    forward_, *backward = compiled.values()
    calls: Calls = {"forward": lambda: jax.block_until_ready(forward_(x, weights))}
    for name, program in zip(("input", "weights"), backward, strict=True):
        calls[name] = lambda program=program: jax.block_until_ready(program(x, weights, gradient))  # type: ignore[misc]
    return calls


def torch_calls(rows: int, c_in: int, c_out: int, kernel: int, stride: int) -> Calls:
    import torch

    torch.set_num_threads(1)
    x = torch.randn(IMAGES, c_in, rows, rows).to(memory_format=torch.channels_last)
    weights = (0.01 * torch.randn(c_out, c_in, kernel, kernel)).to(memory_format=torch.channels_last)
    strides, padding = (stride, stride), (kernel // 2, kernel // 2)
    gradient = torch.ones_like(torch.nn.functional.conv2d(x, weights, None, strides, padding))

    def backward(*wanted: bool) -> Any:
        options = strides, padding, (1, 1), False, (0, 0), 1, [*wanted, False]
        return torch.ops.aten.convolution_backward(gradient, x, weights, None, *options)

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, weights, None, strides, padding),
        "input": lambda: backward(True, False),
        "weights": lambda: backward(False, True),
    }


if __name__ == "__main__":
    main()
