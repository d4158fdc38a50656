"""Times one of our networks: a training step or a forward pass, optionally with its kernels."""

from __future__ import annotations

import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.device import kernel_times, messages
from benchmarks.jax_runs import compile_timed, programs
from dcpt_jax.models import create_model, parameter_shapes
from dcpt_jax.precision import matmul_precision
from dcpt_jax.train import throughput

_SHARE = 0.92  # largest share of the device's memory that a program may use


def random_params(shapes: Any) -> Any:
    """Parameters on the host that keep the activations in range."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))) if len(leaf.shape) > 1 else 0.05
        return (scale * rng.standard_normal(leaf.shape, np.float32)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def compiled(options: dict[str, Any], batch: int) -> tuple[Any, Any, dict[str, Any]]:
    """Compiles a variant for a batch size from shapes only.

    Args:
        options: of a variant, see `job_list.network`.
        batch: number of images in a batch.

    Returns:
        The program, the shapes of its inputs, and the costs of compiling.
    """
    model = create_model(options["architecture"], dtype=options["dtype"], **options["arguments"])
    forward, step, optimizer = programs(model)
    params = parameter_shapes(model)
    image = jax.ShapeDtypeStruct((batch, options["size"], options["size"], 3), jnp.float32)
    inputs, function, donated = (params, image), forward, ()
    if options["what"] == "step":
        inputs = (params, jax.eval_shape(optimizer.init, params), image, image)
        function, donated = step, (0, 1)
    with matmul_precision(options["precision"]):
        lowered, program, costs = compile_timed(function, *inputs, donated=donated)
    return (
        program,
        inputs,
        {
            "batch": batch,
            "trace s": costs["trace s"],
            "compile s": costs["compile s"],
            "planned GB": costs["peak MB"] / 1e3,
            "gigaflops": (throughput.flops_of(lowered) or 0) / 1e9,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        },
    )


def fitting(options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """As `compiled`, for the largest batch that fits: the requested size, its half and so on."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    batch = options["batch"]
    while True:
        program, inputs, facts = compiled(options, batch)
        if not limit or batch == 1 or facts["planned GB"] * 1e9 <= _SHARE * limit:
            return program, inputs, facts
        batch //= 2


def main() -> None:
    """Compiles, waits for the turn, measures, and lists the kernels if requested."""
    options = messages.arguments()
    jax.config.update("jax_enable_compilation_cache", False)
    program, inputs, facts = fitting(options)
    params = random_params(inputs[0])
    rng = np.random.default_rng(0)
    shapes = [x.shape for x in inputs if isinstance(x, jax.ShapeDtypeStruct)]
    images = [rng.random(shape, np.float32) for shape in shapes]
    messages.wait_for_turn(**facts)
    params, images = jax.device_put((params, images))
    if options["what"] == "step":
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), inputs[1])
        carried = [params, jax.device_put(zeros)]

        def run():
            *carried[:], value = program(*carried, *images)
            jax.block_until_ready((carried, value))
            run.value = value
    else:

        def run():
            run.value = jax.block_until_ready(program(params, *images))

    figures = facts | messages.milliseconds(run, seconds=options["seconds"])
    figures["finite"] = bool(jnp.isfinite(run.value).all())
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        figures["peak GB"] = statistics["peak_bytes_in_use"] / 1e9
    peak = throughput.peak_flops(jax.devices()[:1], options["dtype"])
    if figures["gigaflops"]:
        figures["teraflops/s"] = figures["gigaflops"] / figures["ms"]
        if peak:
            figures["share of peak"] = figures["teraflops/s"] * 1e12 / peak
    messages.send("figures", figures)
    if options.get("profile"):
        with tempfile.TemporaryDirectory() as folder:
            messages.send("figures", {"kernels": kernel_times.profile(run, folder, runs=3)})


if __name__ == "__main__":
    main()
