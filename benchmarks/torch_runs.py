"""The networks of `benchmarks.models` in PyTorch, ready to be timed.

NAFNet and SwinIR are from spandrel (which also needs torchvision), Restormer and PromptIR from
`benchmarks.torch_networks`. Imported only if PyTorch is to run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.cases import images

Runners = dict[str, Callable[[], None]]

SOURCES = {
    "nafnet": "spandrel's NAFNet",
    "restormer": "benchmarks.torch_networks",
    "promptir": "benchmarks.torch_networks",
    "swinir": (
        "spandrel's SwinIR, the published network: it also adds a relative position bias in all "
        "windows and a mask in shifted ones, which ours does not have"
    ),
}


def network(architecture: str, arguments: dict[str, Any], size: int) -> torch.nn.Module:
    """PyTorch's network for the `arguments()` of ours; ImportError without spandrel.

    Args:
        architecture: name of the network in `create_model`.
        arguments: all its arguments.
        size: height and width of the images.
    """
    if architecture == "nafnet":
        from spandrel.architectures.NAFNet import NAFNet

        return NAFNet(
            width=arguments["width"],
            enc_blk_nums=list(arguments["encoder_blocks"]),
            middle_blk_num=arguments["middle_blocks"],
            dec_blk_nums=list(arguments["decoder_blocks"]),
        )
    if architecture == "swinir":
        from spandrel.architectures.SwinIR import SwinIR

        return SwinIR(
            img_size=size,  # size for which it precomputes the mask
            embed_dim=arguments["embed_dim"],
            depths=list(arguments["depths"]),
            num_heads=list(arguments["num_heads"]),
            window_size=arguments["window_size"],
            mlp_ratio=arguments["mlp_ratio"],
            drop_path_rate=0.0,
        )
    from benchmarks import torch_networks

    networks = {"restormer": torch_networks.Restormer, "promptir": torch_networks.PromptIR}
    # "masking" is used only in masked pre-training.
    return networks[architecture](**{k: v for k, v in arguments.items() if k != "masking"})


def make(
    architecture: str,
    arguments: dict[str, Any],
    batch: int,
    size: int,
    *,
    dtype: str,
    device: str,
    threads: int,
    **options: bool,
) -> tuple[Runners, dict[str, Any]]:
    """The `runners` of a network, and their costs other than time.

    Args:
        architecture: name of the network in `create_model`.
        arguments: all its arguments.
        batch: number of images in a batch.
        size: height and width of the images.
        dtype: as for `runners`.
        device: "cpu", or "gpu", which falls back to "cpu" if PyTorch cannot use it.
        threads: number of PyTorch's threads on the CPU.
        **options: as for `runners`.
    """
    torch.set_num_threads(threads)
    torch_device = gpu_if_usable() if device == "gpu" else torch.device("cpu")
    model = network(architecture, arguments, size)
    run, facts = runners(model, images(batch, size), torch_device, dtype=dtype, **options)
    return run, {
        "version": f"{torch.__version__} on {torch_device.type}; {SOURCES[architecture]}",
        **facts,
    }


def gpu_if_usable() -> torch.device:
    """The GPU, with its fastest kernels and TF32; the CPU if PyTorch cannot use one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


def runners(
    model: torch.nn.Module,
    images: tuple[np.ndarray, np.ndarray],
    torch_device: torch.device,
    *,
    dtype: str,
    channels_last: bool = False,
    compiled: bool = False,
    what: Sequence[str] = ("forward", "training step"),
) -> tuple[Runners, dict[str, float]]:
    """Functions that run a network once, and their costs other than time.

    Args:
        model: on any device; it is moved and trained.
        images: degraded and clean batch, float32 [b, h, w, 3].
        torch_device: device to run on.
        dtype: "float32", or "bfloat16" for automatic mixed precision.
        channels_last: memory layout of kernels and images.
        compiled: whether to use `torch.compile`.
        what: names of the requested functions.

    Returns:
        Functions for "forward" and "training step", which return when the device is done; and for
        each the seconds of the first run if compiled, and the peak memory in MB on a GPU (including
        all that PyTorch has allocated there).
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(torch_device)
    for parameter in model.parameters():
        if parameter.dim() == 4:  # Module.to fails for PromptIR's five-dimensional prompts
            parameter.data = parameter.data.to(memory_format=memory)
    fused = torch_device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4, fused=fused)
    degraded, clean = (
        torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()).to(torch_device, memory_format=memory)
        for batch in images
    )
    apply = torch.compile(model) if compiled else model
    half = dtype == "bfloat16"

    def precision():
        if half:
            return torch.autocast(torch_device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def wait():
        if torch_device.type == "cuda":
            torch.cuda.synchronize()

    def run_forward():
        with torch.no_grad(), precision():
            apply(degraded)
        wait()

    def run_step():
        optimizer.zero_grad()
        with precision():
            loss = (apply(degraded) - clean).abs().mean()
        loss.backward()
        optimizer.step()
        wait()

    run = {"forward": run_forward, "training step": run_step}
    run = {name: run[name] for name in what}
    facts = {}
    for name, function in run.items():
        start = time.perf_counter()
        function()
        if compiled:
            facts[f"{name}: first run s"] = time.perf_counter() - start
        if torch_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            function()
            facts[f"{name}: peak MB"] = torch.cuda.max_memory_allocated() / 1e6
    return run, facts
