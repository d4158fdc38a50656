"""Times single operations in several formulations, and the limits of the device.

Forward, and forward with the gradients of all inputs ("both"). Inputs are rotated, so that caches
do not keep them between runs.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import math
import time
import traceback
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device import messages
from dcpt_jax.models import cpu, layers
from dcpt_jax.models.formulation import ACCELERATOR, formulated

# Least total size of rotated inputs; the cache of an H100 has 50 MB.
_ROTATED_BYTES = 200e6

Case = tuple[str, Callable, tuple[tuple[int, ...], ...], str]  # name, function, shapes, dtype


def cases(tiny: bool) -> Iterator[Case]:
    """All operations, most important first; with `tiny` a few for a CPU."""
    maps = [(32, 128, 128, 128), (32, 64, 64, 256), (32, 16, 16, 1024)]
    if tiny:
        maps = [(2, 16, 16, 16)]
    for shape, dtype in itertools.product(maps, ("bfloat16", "float32")):
        if dtype == "float32" and shape != maps[0]:
            continue
        for name, function in (
            ("convolution", _as_accelerator(layers.depthwise_conv)),
            ("cpu", cpu.convolutions.depthwise_conv),
        ):
            yield f"depthwise {name}", function, (shape, (3, 3, 1, shape[3])), dtype
    for shape, out in (
        [((2, 16, 16, 16), 8)]
        if tiny
        else [
            ((32, 128, 128, 64), 128),
            ((32, 16, 16, 512), 1024),
        ]
    ):
        for name, function in (("convolution", layers.plain_conv), ("product", _by_product)):
            yield f"pointwise {name}", function, (shape, (1, 1, shape[3], out)), "bfloat16"
    shape = (2, 16, 16, 16) if tiny else (32, 128, 128, 64)
    for name, function in (
        ("plain", _as_accelerator(functools.partial(layers.normalise, centred=True))),
        ("cpu", functools.partial(cpu.norms.normalise, centred=True)),
    ):
        function = functools.partial(function, epsilon=1e-6)
        for dtype in ("bfloat16", "float32"):
            yield f"norm {name}", _in_float32(function), (shape,), dtype
    for name, function in (
        ("gelu cpu", cpu.gelu.gelu),
        ("gelu plain", _as_accelerator(layers.gelu)),
    ):
        yield name, function, (shape,), "bfloat16"


def _by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return layers.multiply(x, kernel[0, 0])


def _as_accelerator(function: Callable) -> Callable:
    """The function, formulated for accelerators also in a rehearsal on a CPU."""

    def call(*args, **kwargs):
        with formulated(ACCELERATOR):
            return function(*args, **kwargs)

    return call


def _in_float32(function: Callable) -> Callable:
    """Calls a norm as the networks do: input in its dtype, statistics in float32."""
    return lambda x: function(x.astype(jnp.float32)).astype(x.dtype)


def forward_and_both(function: Callable) -> dict[str, Callable]:
    """The programs of an operation: its `inputs`, the last of which is the output's gradient."""

    def both(*inputs):
        *inputs, gradient = inputs
        value, back = jax.vjp(function, *inputs)
        return value, back(gradient)

    return {"forward": lambda *inputs: function(*inputs[:-1]), "both": both}


def compile_case(case: Case) -> dict[str, Any]:
    """Compiled programs of a case, and the shapes of their inputs."""
    _, function, shapes, dtype = case
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    inputs.append(jax.eval_shape(function, *inputs))
    programs = {}
    for passes, program in forward_and_both(function).items():
        try:
            programs[passes] = jax.jit(program).lower(*inputs).compile()
        except Exception as error:
            programs[passes] = f"{type(error).__name__}: {error}"[-600:]
    return {"programs": programs, "inputs": inputs}


def time_case(case: dict[str, Any]) -> dict[str, Any]:
    """Microseconds of each program of a case; the error text if it failed."""
    bytes_of_all = sum(math.prod(x.shape) * x.dtype.itemsize for x in case["inputs"])
    sets = [
        [_random(x, seed) for x in case["inputs"]]
        for seed in range(1 + math.ceil(_ROTATED_BYTES / bytes_of_all) if bytes_of_all > 1e6 else 1)
    ][:16]
    figures = {}
    for passes, program in case["programs"].items():
        if isinstance(program, str):
            figures[f"{passes}: error"] = program
            continue
        try:
            figures[f"{passes} us"] = microseconds(program, sets)
        except Exception as error:
            figures[f"{passes}: error"] = f"{type(error).__name__}: {error}"[-600:]
    return figures


def _random(x: jax.ShapeDtypeStruct, seed: int) -> jax.Array:
    return _noise(x.shape, x.dtype, seed)


@functools.lru_cache
def _noise(shape: tuple[int, ...], dtype: Any, seed: int) -> jax.Array:
    size = math.prod(shape)
    # A short piece of noise, repeated: generating gigabytes would take longer than measuring.
    piece = np.random.default_rng(seed).standard_normal(min(size, 2**20)).astype(np.float32)
    return jnp.asarray(np.resize(piece, size).reshape(shape)).astype(dtype)


def microseconds(program: Callable, sets: list[list[jax.Array]]) -> float:
    """Median time per run over rounds of many asynchronously dispatched runs."""
    inputs = itertools.cycle(sets)

    def spent(runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            out = program(*next(inputs))
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / runs

    spent(1)
    runs = max(1, min(50, int(0.02 / max(spent(1), 1e-6))))
    return 1e6 * median(spent(runs) for _ in range(3))


def ceilings(tiny: bool) -> dict[str, Any]:
    """Programs for a large copy and a large matrix product, with their bytes or operations."""
    side, words = (256, 2**16) if tiny else (8192, 2**28)
    matrix = jax.ShapeDtypeStruct((side, side), jnp.bfloat16)
    line = jax.ShapeDtypeStruct((words,), jnp.float32)
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    copy = jax.jit(lambda x: x * 1.0001).lower(line).compile()
    return {
        "bfloat16 product": (product, [matrix, matrix], 2 * side**3, "teraflops/s"),
        "copy": (copy, [line], 8 * words, "TB/s"),
    }


def main() -> None:
    """Compiles everything, waits for the turn, and times within its limit."""
    options = messages.arguments()
    jax.config.update("jax_enable_compilation_cache", False)
    tiny, case_list = options["tiny"], list(cases(options["tiny"]))
    with concurrent.futures.ThreadPoolExecutor(options["threads"]) as pool:
        largest = ceilings(tiny)
        compiled_cases = list(pool.map(compile_case, case_list))
    messages.wait_for_turn()
    start = time.perf_counter()
    for name, (program, inputs, count, unit) in largest.items():
        spent = microseconds(program, [[_random(x, i) for i, x in enumerate(inputs)]])
        messages.send("figures", {name: {unit: count / spent / 1e6, "us": spent}})
    for case, compiled in zip(case_list, compiled_cases, strict=True):
        name, _, shapes, dtype = case
        label = f"{name}, {'x'.join(map(str, shapes[0]))} {dtype}"
        if len(shapes) > 1 and "pointwise" in name:
            label += f" -> {shapes[1][3]}"
        if time.perf_counter() - start > options["seconds"]:
            messages.send("figures", {label: {"error": "time limit reached"}})
            continue
        try:
            messages.send("figures", {label: time_case(compiled)})
        except Exception:
            messages.send("figures", {label: {"error": traceback.format_exc()[-600:]}})
        compiled.clear()


if __name__ == "__main__":
    main()
