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
# Changes to `formulation.ACCELERATOR` by name; the name may be followed by "highest" or "high" for
# `config.matmul_precision`.
_CONVOLUTIONS = {"pointwise": "convolution", "patch": "convolution"}
WAYS = {
    "package": {},
    "convolution": {**_CONVOLUTIONS, "keep_products": False},
    "convolution, products": _CONVOLUTIONS,
    "matmul": {"keep_products": False},
}


def network(architecture: str, what: str, dtype: str, way: str, *, tiny: bool, **more: Any) -> Job:
    """A run of a network: `way` is one of `WAYS` for ours, "eager" or "compile" for PyTorch's."""
    arguments = {
        "architecture": "nafnet" if architecture == "bundled" else architecture,
        "arguments": _TINY[architecture] if tiny else {},
        "what": what,
        "dtype": dtype,
        "batch": _BATCHES[architecture] if what == "step" else 1,
        "size": 128 if what == "step" else 512,
        "seconds": 0.2 if tiny else 2.0,
    }
    if tiny:
        arguments |= {"batch": 2 if what == "step" else 1, "size": 32}
    if architecture == "bundled":
        arguments |= {"arguments": _BUNDLED, "size": 192 if what == "step" else 1024}
    way, _, precision = way.partition(": ")
    if way in WAYS:
        module, name = "ours", f"{way}, {precision}" if precision else way
        arguments |= {"formulation": WAYS[way], "precision": precision or "default", **more}
    else:
        module, name = "theirs", f"torch {way}"
        arguments["compiled"] = way == "compile"
    return Job(
        f"{architecture} {what} {dtype} {name}",
        "fast",
        f"benchmarks.device.{module}",
        arguments,
        seconds=40,
    )


def fast(tiny: bool) -> list[Job]:
    """Training steps and forward passes of the networks, ours and PyTorch's."""
    half, single = "bfloat16", "float32"
    rows: list[tuple[str, str, str, str]] = [
        ("bundled", "step", half, "package"),
        ("nafnet", "step", half, "compile"),
        ("nafnet", "step", half, "package"),
        ("nafnet", "step", half, "convolution"),
        ("nafnet", "step", half, "eager"),
        ("nafnet", "step", single, "package"),
        ("nafnet", "step", single, "eager"),
        ("restormer", "step", half, "package"),
        ("restormer", "step", half, "eager"),
        ("nafnet", "forward", half, "package"),
        ("nafnet", "forward", half, "eager"),
        ("nafnet", "step", single, "package: highest"),
        ("nafnet", "step", half, "matmul"),
        ("swinir", "step", half, "package"),
        ("swinir", "step", half, "eager"),
        ("promptir", "step", half, "package"),
        ("promptir", "step", half, "eager"),
        ("restormer", "step", half, "compile"),
        ("swinir", "step", half, "compile"),
    ]
    rows += [("nafnet", "step", single, "package: high")]
    for name in ("restormer", "promptir", "swinir"):
        rows += [(name, "forward", half, way) for way in ("eager", "package")]
        rows += [(name, "step", single, way) for way in ("eager", "package")]
    if tiny:
        rows = [
            ("nafnet", "step", single, "package"),
            ("nafnet", "step", half, "matmul"),
            ("restormer", "step", single, "eager"),  # NAFNet would need spandrel
            ("restormer", "step", single, "package"),
            ("nafnet", "forward", single, "package"),
        ]
    return [network(*row, tiny=tiny, profile=_profiled(*row, tiny=tiny)) for row in rows]


def _profiled(architecture: str, what: str, dtype: str, way: str, *, tiny: bool) -> bool:
    """Whether to list a run's kernels: the best guess for each network's bfloat16 step."""
    return what == "step" and way == "package" and (tiny or dtype == "bfloat16")


def right(tiny: bool, golden: str) -> list[Job]:
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
            "right",
            "benchmarks.device.right",
            {"golden": golden, "cases": cases},
            timed=False,
            seconds=240,
        )
        for cases in groups
    ]


def all_jobs(*, tiny: bool, golden: str, photos: str, out: str) -> list[Job]:
    """All jobs, in order of importance."""
    networks = fast(tiny)
    micro = Job(
        "operations",
        "micro",
        "benchmarks.device.operations",
        {"tiny": tiny, "threads": 2 if tiny else 8, "seconds": 5 if tiny else 30},
        seconds=60,
    )
    fed = Job(
        "input pipeline",
        "fed",
        "benchmarks.device.fed",
        {"tiny": tiny, "photos": photos, "workers": 1 if tiny else 16},
        seconds=240 if tiny else 60,  # the rehearsal may share a few cores with other work
    )
    whole = Job(
        "commands",
        "whole",
        "benchmarks.device.whole",
        {"tiny": tiny, "photos": "", "out": out},
        timed=False,
        seconds=300,
    )
    recordings = right(tiny, golden) if golden else []
    first = 5
    return [*networks[:first], micro, whole, *recordings[:4], fed, *networks[first:9],
            *recordings[4:], *networks[9:]]  # fmt: skip
