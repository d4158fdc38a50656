"""What a step costs: floating-point operations, the share of the device's peak, memory."""

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

# Dense peaks of one device in 10^12 operations a second, from the makers' data sheets: those of
# bfloat16, and those of float32 matrix products by default (TF32 on GPUs, bfloat16 on TPUs).
# Keys are the first words of `jax.Device.device_kind`; the longest match counts.
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
# Words after such a name that mark a variant with another peak.
_OTHERS = {"MIG", "Laptop", "Ti", "D"}


def flops_of(lowered: jax.stages.Lowered, *, accumulate_steps: int = 1) -> float | None:
    """Floating-point operations of one call of a lowered step, over all devices.

    Counted by XLA before it optimises. A loop's body counts once there, so that a step that works
    through its batch in parts is counted as that many times one part.

    Args:
        lowered: the step.
        accumulate_steps: parts of a batch.

    Returns:
        Operations (a multiply-add is two); None where the backend does not say.
    """
    try:
        flops = (lowered.cost_analysis() or {}).get("flops")
    except (NotImplementedError, RuntimeError):
        return None
    return float(flops) * accumulate_steps if flops and flops > 0 else None


def peak_flops(devices: Sequence[jax.Device], dtype: str) -> float | None:
    """Floating-point operations a second that devices reach at most, together.

    Args:
        devices: of one kind.
        dtype: compute type, "float32" or "bfloat16".

    Returns:
        Operations a second; None for a device whose peak is not in `PEAKS`.
    """
    kind = devices[0].device_kind
    known = [name for name in PEAKS if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    if not known or _OTHERS & set(kind.split()):
        return None
    half, single = PEAKS[max(known, key=len)]
    return len(devices) * 1e12 * (half if dtype == "bfloat16" else single)


def memory(device: jax.Device) -> dict[str, float]:
    """Memory in GB (2^30 bytes): of this process on the host, and at most so far on its device.

    The device's is left out where the backend does not say it, as on CPUs.
    """
    found = {"host_memory_gb": resident_bytes() / 2**30}
    statistics: dict[str, Any] = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        found["device_memory_peak_gb"] = statistics["peak_bytes_in_use"] / 2**30
    return found


def resident_bytes() -> int:
    """Memory that this process holds now; where the system does not say, the most so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_resident_bytes()
    return pages * resource.getpagesize()


def peak_resident_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
