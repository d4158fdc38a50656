"""Starts JAX's devices, with a readable error if that fails."""

import importlib.util


class DeviceError(RuntimeError):
    """JAX has no device; the message says what was requested and what is available."""


def start_devices() -> None:
    """Starts JAX's devices if necessary; DeviceError if there are none."""
    import jax

    try:
        jax.devices()
    except Exception as error:  # JAX raises various types, some without a message
        reason = " ".join(str(error).split()) or type(error).__name__
        plugins = {"cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"), "tpu": ("libtpu",)}
        known = [k for k, names in plugins.items() if any(map(importlib.util.find_spec, names))]
        raise DeviceError(
            f"JAX cannot start a device ({reason}). JAX_PLATFORMS is "
            f"{jax.config.jax_platforms or 'not set'}; this installation supports "
            f"{', '.join(['cpu', *known])}: set JAX_PLATFORMS to one of these, or install an extra "
            "of dcpt_jax for the device: cuda12, cuda13, tpu"
        ) from error
