"""The jobs of the kit, in order of importance."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Job:
    """A process of the kit.

    Attributes:
        name: key of its results.
        part: part of the kit that it belongs to.
        module: module to run, with `arguments` as JSON.
        timed: whether it waits for a turn with exclusive use of the device.
        seconds: time limit of its turn, or of the whole process if it has none.
    """

    name: str
    part: str
    module: str
    arguments: dict[str, Any]
    timed: bool = True
    seconds: float = 30


# The paper's batch and crop for NAFNet; for the others half the batch, so that float32 fits too.
_BATCHES = {"nafnet": 32, "bundled": 32, "restormer": 16, "promptir": 16, "swinir": 16}
# The bundled network (configs/bundled.py), in its restoration training.
_BUNDLED = dict(width=32, encoder_blocks=(2, 2, 4), middle_blocks=4, decoder_blocks=(2, 2, 2))
_TINY: dict[str, dict[str, Any]] = {
    "nafnet": dict(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)),
    "restormer": dict(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 2, 2, 2)),
}


def network(
    architecture: str, kind: str, dtype: str, variant: str, *, tiny: bool, **further: Any
) -> Job:
    """Times a network.

    Args:
        architecture: of the paper, or "bundled".
        kind: "step" or "forward".
        dtype: compute type.
        variant: "package", perhaps followed by ": " and a `config.matmul_precision`, or "eager" or
            "compile" for PyTorch.
        tiny: whether to use tiny sizes.
        **further: more arguments of the module.
    """
    arguments = {
        "architecture": "nafnet" if architecture == "bundled" else architecture,
        "arguments": _TINY[architecture] if tiny else {},
        "what": kind,
        "dtype": dtype,
        "batch": _BATCHES[architecture] if kind == "step" else 1,
        "size": 128 if kind == "step" else 512,
        "seconds": 0.2 if tiny else 2.0,
    }
    if tiny:
        arguments |= {"batch": 2 if kind == "step" else 1, "size": 32}
    if architecture == "bundled":
        arguments |= {"arguments": _BUNDLED, "size": 192 if kind == "step" else 1024}
    variant, _, precision = variant.partition(": ")
    if variant == "package":
        module, name = "jax_steps", f"{variant}, {precision}" if precision else variant
        arguments |= {"precision": precision or "default", **further}
    else:
        module, name = "torch_steps", f"torch {variant}"
        arguments["compiled"] = variant == "compile"
    return Job(
        f"{architecture} {kind} {dtype} {name}",
        "networks",
        f"benchmarks.device.{module}",
        arguments,
        seconds=40,
    )


def networks(tiny: bool) -> list[Job]:
    """Training steps and forward passes of the networks, ours and PyTorch's."""
    half, single = "bfloat16", "float32"
    rows: list[tuple[str, str, str, str]] = [
        ("bundled", "step", half, "package"),
        ("nafnet", "step", half, "compile"),
        ("nafnet", "step", half, "package"),
        ("nafnet", "step", half, "eager"),
        ("nafnet", "step", single, "package"),
        ("nafnet", "step", single, "eager"),
        ("restormer", "step", half, "package"),
        ("restormer", "step", half, "eager"),
        ("nafnet", "forward", half, "package"),
        ("nafnet", "forward", half, "eager"),
        ("nafnet", "step", single, "package: highest"),
        ("swinir", "step", half, "package"),
        ("swinir", "step", half, "eager"),
        ("promptir", "step", half, "package"),
        ("promptir", "step", half, "eager"),
        ("restormer", "step", half, "compile"),
        ("swinir", "step", half, "compile"),
    ]
    rows += [("nafnet", "step", single, "package: high")]
    for name in ("restormer", "promptir", "swinir"):
        rows += [(name, "forward", half, variant) for variant in ("eager", "package")]
        rows += [(name, "step", single, variant) for variant in ("eager", "package")]
    if tiny:
        rows = [
            ("nafnet", "step", single, "package"),
            ("nafnet", "step", half, "package"),
            ("restormer", "step", single, "eager"),  # NAFNet would need spandrel
            ("restormer", "step", single, "package"),
            ("nafnet", "forward", single, "package"),
        ]
    return [network(*row, tiny=tiny, profile=_profiled(*row, tiny=tiny)) for row in rows]


def _profiled(architecture: str, kind: str, dtype: str, variant: str, *, tiny: bool) -> bool:
    """Whether to list a run's kernels: the best guess for each network's bfloat16 step."""
    return kind == "step" and variant == "package" and (tiny or dtype == "bfloat16")


def recordings(tiny: bool, golden: str) -> list[Job]:
    """The checks against recordings, a few per process."""
    groups = [
        [("network", "nafnet_small")],
        [("network", "restormer_small")],
        [("network", "promptir_tiny")],
        [("network", "swinir_small")],
        [("steps", "dcpt_nafnet")],
        [("steps", "finetune_nafnet_clip")],
        [("classifier", f"dc_{name}") for name in ("nafnet", "restormer")],
        [("classifier", f"dc_{name}") for name in ("promptir_tiny", "swinir")],
    ]
    if tiny:
        groups = [[("classifier", "dc_nafnet")]]
    return [
        Job(
            cases[0][1],
            "recordings",
            "benchmarks.device.recordings",
            {"golden": golden, "cases": cases},
            timed=False,
            seconds=240,
        )
        for cases in groups
    ]


def all_jobs(*, tiny: bool, golden: str, photos: str, out: str) -> list[Job]:
    """All jobs, in order of importance."""
    timed = networks(tiny)
    operations = Job(
        "operations",
        "operations",
        "benchmarks.device.operations",
        {"tiny": tiny, "threads": 2 if tiny else 8, "seconds": 5 if tiny else 30},
        seconds=60,
    )
    pipeline = Job(
        "input pipeline",
        "pipeline",
        "benchmarks.device.input_pipeline",
        {"tiny": tiny, "photos": photos, "workers": 1 if tiny else 16},
        seconds=240 if tiny else 60,  # the rehearsal may share a few cores with other work
    )
    commands = Job(
        "commands",
        "commands",
        "benchmarks.device.commands",
        {"tiny": tiny, "photos": "", "out": out},
        timed=False,
        seconds=300,
    )
    checks = recordings(tiny, golden) if golden else []
    first = 4
    return [*timed[:first], operations, commands, *checks[:4], pipeline, *timed[first:8],
            *checks[4:], *timed[8:]]  # fmt: skip
