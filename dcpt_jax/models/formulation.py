"""How operations are computed: one way on CPUs, another on GPUs and TPUs.

XLA on CPUs is slow at plain grouped and 1x1 convolutions, so `dcpt_jax.models.cpu` has other
formulations of the same operations. `by_platform` picks one when a program is lowered, because
only then is the platform known: inputs may be committed to a CPU of a machine with a GPU, and
`jax.export` lowers for platforms that this machine does not have.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from jax import lax


@dataclasses.dataclass(frozen=True)
class Formulation:
    """How operations are computed.

    The defaults are for accelerators, as measured on one H100 (docs/accelerators.md). Everything
    that is not listed is XLA's own convolution, `jax.nn.gelu` and so on, differentiated by JAX.

    Attributes:
        cpu: whether to use `dcpt_jax.models.cpu`.
        pointwise: 1x1 convolutions: as matrix products, or as XLA's convolution.
        patch: convolutions whose stride is their size, likewise.
        depthwise: as XLA's convolution, or as nine shifted products ("taps"), slower but with as
            many operations as it should have in XLA's count.
        keep_products: whether the backward pass of a block keeps only the results of convolutions
            and matrix products, and recomputes everything else.
    """

    cpu: bool = False
    pointwise: Literal["product", "convolution"] = "product"
    patch: Literal["product", "convolution"] = "product"
    depthwise: Literal["convolution", "taps"] = "convolution"
    keep_products: bool = True


ACCELERATOR = Formulation()
CPU = Formulation(cpu=True, keep_products=False)

# The formulation being traced, and what `cpu.folding` knows about the arrays of that trace.
_current: contextvars.ContextVar[tuple[Formulation, dict] | None] = contextvars.ContextVar(
    "formulation", default=None
)


# The formulation of the platform that everything is lowered for; None where that is not known.
_known: contextvars.ContextVar[Formulation | None] = contextvars.ContextVar("known", default=None)


def current() -> Formulation | None:
    """The formulation being traced; None outside `by_platform` and `formulated`."""
    state = _current.get()
    return state and state[0]


def on_cpu() -> bool:
    """Whether the formulation being traced is one for CPUs."""
    formulation = current()
    return formulation is not None and formulation.cpu


def notes() -> dict[int, Any]:
    """A dict that lives as long as the formulation being traced; empty outside."""
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

    `by_platform` then traces one formulation instead of two, which halves the time that tracing a
    training step takes. As a decorator it applies to each call of a function. A function that was
    jitted and traced before keeps its first trace, as with `formulated`.
    """
    before = _known.set(CPU if platform == "cpu" else ACCELERATOR)
    try:
        yield
    finally:
        _known.reset(before)


def by_platform(function: Callable[..., Any], *args: Any) -> Any:
    """Returns `function(*args)`, formulated for the platform that the program is lowered for.

    Inside `traced_for` the function is traced once. Elsewhere it is traced twice, once for `CPU`
    and once for `ACCELERATOR`; lowering keeps one trace, so compile time and program are those of
    that formulation alone. The two may keep different values for the backward pass: JAX passes
    zeros in place of the values that only the other one needs, and XLA removes them. Formulations
    for CPUs have backward passes of their own (`jax.custom_vjp`), which rule out forward mode; JAX
    raises that error at lowering, so forward mode works everywhere else. A `jax.custom_vjp` around
    both would rule it out everywhere.

    Inside another `by_platform` or `formulated` the choice is made already, and the function is
    simply called. Outside `jax.jit` the default device decides.
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
    """Policy of `jax.checkpoint` for `Formulation.keep_products`.

    Norms, gates, biases and factors are recomputed in the kernels that need them; by default JAX
    would keep several float32 maps of each norm.
    """
    return primitive in (lax.conv_general_dilated_p, lax.dot_general_p)


def checkpointed(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with the memory saving of the formulation being traced, if it has one."""
    formulation = current()
    keep_products = formulation is not None and formulation.keep_products
    return jax.checkpoint(function, policy=is_product) if keep_products else function
