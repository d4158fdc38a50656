"""Cost of a training step: floating-point operations, share of the peak, memory."""

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

# Dense peak of one device in TFLOP/s, from the vendors' data sheets: (bfloat16, float32 matrix
# products at default precision, that is TF32 on GPUs and bfloat16 on TPUs). Keys are prefixes of
# `jax.Device.device_kind`; the longest match counts.
PEAKS: dict[str, tuple[float, float]] = {
    "NVIDIA A100": (312.0, 156.0),
    "NVIDIA L4": (121.0, 60.0),
    "NVIDIA L40": (181.0, 90.5),
    "NVIDIA L40S": (362.0, 183.0),
    "NVIDIA GeForce RTX 3090": (71.0, 35.6),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H100 NVL": (835.5, 417.8),
    "NVIDIA H100": (989.4, 494.7),
    "NVIDIA H200": (989.4, 494.7),
    "NVIDIA H200 NVL": (835.5, 417.8),
    "NVIDIA B200": (2250.0, 1100.0),
    "TPU v3": (123.0, 123.0),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5p": (459.0, 459.0),
    "TPU v5": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
}
# Words in a device's name that mark a variant with another peak.
_VARIANTS = {"MIG", "Laptop", "Ti", "D"}


def flops_of(lowered: jax.stages.Lowered, *, accumulate_steps: int = 1) -> float | None:
    """Floating-point operations of one call of a lowered step, over all devices.

    Counted by XLA before optimisation. XLA counts the body of a loop once, so with gradient
    accumulation its number is multiplied by the number of parts; on CPUs the number is too low, as
    some gradients of kernels are computed in loops (`models.cpu`).

    Args:
        lowered: the step.
        accumulate_steps: parts of a batch.

    Returns:
        Operations (a multiply-add is two); None if the backend does not report them.
    """
    try:
        flops = (lowered.cost_analysis() or {}).get("flops")
    except (NotImplementedError, RuntimeError):
        return None
    return float(flops) * accumulate_steps if flops and flops > 0 else None


def peak_flops(devices: Sequence[jax.Device], dtype: str) -> float | None:
    """Peak floating-point operations per second of several devices together.

    Args:
        devices: of one kind.
        dtype: compute type, "float32" or "bfloat16".

    Returns:
        Operations per second; None for a device that is not in `PEAKS`.
    """
    kind = devices[0].device_kind
    known = [name for name in PEAKS if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    if not known or _VARIANTS & set(kind.split()):
        return None
    half, single = PEAKS[max(known, key=len)]
    return len(devices) * 1e12 * (half if dtype == "bfloat16" else single)


def memory(device: jax.Device) -> dict[str, float]:
    """Memory in GB (2^30 bytes): current host memory of this process, and the device's peak.

    The latter is left out if the backend does not report it, as on CPUs.
    """
    figures = {"host_memory_gb": resident_bytes() / 2**30}
    statistics: dict[str, Any] = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        figures["device_memory_peak_gb"] = statistics["peak_bytes_in_use"] / 2**30
    return figures


def resident_bytes() -> int:
    """Resident memory of this process; the peak where the current value is not available."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_resident_bytes()
    return pages * resource.getpagesize()


def peak_resident_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
