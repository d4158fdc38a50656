"""Starting JAX's devices, and a sentence where they do not start."""

import importlib.util


class DeviceError(RuntimeError):
    """JAX has no device to compute on; the message says what it was asked for and what there is."""


def start_devices() -> None:
    """Starts JAX's devices, unless they are started; DeviceError if there are none."""
    import jax

    try:
        jax.devices()
    except Exception as error:  # JAX raises many kinds, some without a word
        said = " ".join(str(error).split()) or type(error).__name__
        plugins = {"cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"), "tpu": ("libtpu",)}
        known = [k for k, names in plugins.items() if any(map(importlib.util.find_spec, names))]
        raise DeviceError(
            f"JAX cannot start a device (it says: {said}). JAX_PLATFORMS asks for "
            f"{jax.config.jax_platforms or 'any'}; this installation supports "
            f"{', '.join(['cpu', *known])}: set JAX_PLATFORMS to one of these, or install an extra "
            "of dcpt_jax for the device: cuda12, cuda13, tpu"
        ) from error
