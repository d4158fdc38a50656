"""Times PyTorch's networks on the device: a training step or a forward pass, eager or compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import torch_runs
from benchmarks.cases import images
from benchmarks.device import messages
from dcpt_jax.models import create_model


def main() -> None:
    """Builds a network (and compiles it if requested), waits for its turn and times it.

    `torch.compile` compiles at the first run, so the device is used before the turn. Without it,
    nothing runs there before the turn.
    """
    options = messages.arguments()
    device = torch_runs.gpu_if_usable()
    function = {"step": "training step", "forward": "forward"}[options["what"]]
    arguments = create_model(options["architecture"], **options["arguments"]).arguments()

    model = torch_runs.network(options["architecture"], arguments, options["size"])

    def prepared(batch: int):
        runs, facts = torch_runs.runners(
            model,
            images(batch, options["size"]),
            device,
            dtype=options["dtype"],
            channels_last=device.type == "cuda",
            compiled=options["compiled"],
            what=(function,),
        )
        return runs[function], {
            key.removeprefix(f"{function}: "): value for key, value in facts.items()
        }

    start = time.perf_counter()
    if options["compiled"]:
        run, facts = fitting(prepared, options["batch"])
        if device.type == "cuda":
            torch.cuda.empty_cache()
        messages.wait_for_turn(**facts, **{"prepare s": time.perf_counter() - start})
    else:
        messages.wait_for_turn()
        run, facts = fitting(prepared, options["batch"])
    figures = facts | messages.milliseconds(run, seconds=options["seconds"])
    if "peak MB" in figures:
        figures["peak GB"] = figures.pop("peak MB") / 1e3
    messages.send("figures", figures | {"version": torch.__version__})


def fitting(
    prepared: Callable[[int], tuple[Callable[[], None], dict[str, Any]]], batch: int
) -> tuple[Callable[[], None], dict[str, Any]]:
    """The result of `prepared` for the largest batch that fits: this size, its half and so on."""
    while True:
        try:
            run, facts = prepared(batch)
            return run, facts | {"batch": batch}
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
        torch.cuda.empty_cache()
        batch //= 2


if __name__ == "__main__":
    main()
