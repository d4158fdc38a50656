"""Formulations of the networks' operations: one for CPUs, another for GPUs and TPUs.

On CPUs XLA is slow at plain grouped and 1x1 convolutions, so `dcpt_jax.models.cpu` has other
formulations of the same operations. `by_platform` selects one when a program is lowered, as the
platform is unknown before: inputs may be committed to a CPU of a machine with a GPU, and
`jax.export` lowers for platforms that this machine does not have.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from jax import lax

# The formulation for CPUs uses `dcpt_jax.models.cpu`. That for accelerators, as measured on an H100
# (docs/accelerators.md), uses matrix products for 1x1 and patch convolutions; everything else is
# XLA's convolution, `jax.nn.gelu` and so on, differentiated by JAX.
Formulation = Literal["cpu", "accelerator"]
CPU: Formulation = "cpu"
ACCELERATOR: Formulation = "accelerator"

# The formulation being traced, and the notes of `cpu.folding` on the arrays of that trace.
_current: contextvars.ContextVar[tuple[Formulation, dict] | None] = contextvars.ContextVar(
    "formulation", default=None
)


# The formulation of the platform that everything is lowered for; None if unknown.
_known: contextvars.ContextVar[Formulation | None] = contextvars.ContextVar("known", default=None)


def current() -> Formulation | None:
    """The formulation being traced; None outside `by_platform` and `formulated`."""
    state = _current.get()
    return state and state[0]


def on_cpu() -> bool:
    """Whether the formulation for CPUs is being traced."""
    return current() == CPU


def notes() -> dict[int, Any]:
    """Notes with the lifetime of the formulation being traced; outside, an unused empty dict."""
    state = _current.get()
    return {} if state is None else state[1]


@contextlib.contextmanager
def formulated(formulation: Formulation) -> Iterator[None]:
    """Forces a formulation on everything traced inside, whatever the platform.

    For benchmarks and tests, and for forward-mode derivatives on CPUs::

        with formulated(ACCELERATOR):
            jax.jvp(restore, (image,), (tangent,))

    A function that was jitted and traced before keeps the formulation of its first trace: jit a new
    one inside.
    """
    before = _current.set((formulation, {}))
    try:
        yield
    finally:
        _current.reset(before)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Declares the platform that everything traced inside is lowered for ("cpu", "gpu" or "tpu").

    `by_platform` then traces one formulation instead of two, which halves the tracing time of a
    training step. Usable as a decorator. A function that was jitted and traced before keeps its
    first trace, as with `formulated`.
    """
    before = _known.set(CPU if platform == "cpu" else ACCELERATOR)
    try:
        yield
    finally:
        _known.reset(before)


def by_platform(function: Callable[..., Any], *args: Any) -> Any:
    """Returns `function(*args)`, formulated for the platform that the program is lowered for.

    Inside `traced_for` the function is traced once. Elsewhere it is traced twice, for `CPU` and for
    `ACCELERATOR`; lowering keeps one of them, so that compile time and program are those of that
    formulation alone. The two may save different values for the backward pass: JAX passes zeros for
    those of the other formulation, and XLA removes them. The formulations for CPUs have custom
    backward passes (`jax.custom_vjp`), which do not support forward mode; JAX raises that error at
    lowering, so forward mode works on other platforms. A `jax.custom_vjp` around both would exclude
    it on all platforms.

    Inside another `by_platform` or `formulated`, the function is simply called. Outside `jax.jit`
    the default device decides.
    """
    if current() is not None:
        return function(*args)

    def traced(formulation: Formulation) -> Callable[..., Any]:
        def call(*args):
            with formulated(formulation):
                return function(*args)

        return call

    known = _known.get()
    if known is not None:
        return traced(known)(*args)
    return lax.platform_dependent(*args, cpu=traced(CPU), default=traced(ACCELERATOR))


def is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    """Policy of `jax.checkpoint` for accelerators.

    Norms, gates, biases and factors are recomputed in the kernels that use them; by default JAX
    would save several float32 maps for each norm.
    """
    return primitive in (lax.conv_general_dilated_p, lax.dot_general_p)


def checkpointed(function: Callable[..., Any]) -> Callable[..., Any]:
    """On accelerators, keeps only products and convolutions for the backward pass of `function`."""
    on_accelerator = current() == ACCELERATOR
    return jax.checkpoint(function, policy=is_product) if on_accelerator else function
