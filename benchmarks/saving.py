"""How long a checkpoint holds up training: `python -m benchmarks.saving [--fsdp N]`.

Saves a state of the size of the paper's NAFNet with AdamW and its moving average several times,
without training. Prints for each save how long `Checkpoints.save` blocked, how much of that was
processor time of the calling thread, and how long the writing took after that. Simulated devices:
XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from dcpt_jax import create_model
from dcpt_jax.train import sharding
from dcpt_jax.train.checkpoints import Checkpoints
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import TrainState, create_state


def make_state(fsdp_devices: int) -> TrainState:
    """A random state of the paper's NAFNet, sharded over `fsdp_devices`."""
    model, optimizers = create_model("nafnet"), {"network": adamw(1e-3)}

    def initialise(rng: jax.Array) -> TrainState:
        params = {"network": model.init(rng, jnp.zeros((1, 64, 64, 3)))["params"]}
        return create_state(params, optimizers, rng=rng, averaged=("network",))

    shapes = jax.eval_shape(initialise, jax.random.PRNGKey(0))
    mesh = sharding.make_mesh(jax.device_count(), fsdp_devices=fsdp_devices)
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf, leaf_sharding: jax.device_put(
            random.random(leaf.shape, np.float32).astype(leaf.dtype), leaf_sharding
        ),
        shapes,
        sharding.state_shardings(shapes, mesh),
    )


def main() -> None:
    """Prints the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fsdp", type=int, default=1, help="config.fsdp_devices")
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--folder", help="folder for the checkpoints (default: a temporary folder)")
    options = parser.parse_args()
    state = make_state(options.fsdp)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    print(f"state of {size:.0f} MB on {jax.device_count()} devices, fsdp_devices {options.fsdp}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        checkpoints = Checkpoints(folder, keep=1)
        for step in range(1, options.saves + 1):
            number = np.full((), step, np.int32)
            state = state.replace(step=jax.device_put(number, state.step.sharding))
            start, computed = time.perf_counter(), time.thread_time()
            checkpoints.save(state, batches=step, config={}, model={})
            blocked, computed = time.perf_counter() - start, time.thread_time() - computed
            checkpoints.wait()
            written = time.perf_counter() - start - blocked
            print(
                f"save {step}: blocked {blocked:.2f} s ({computed:.2f} s of computing), written "
                f"{written:.2f} s later",
                flush=True,
            )
        checkpoints.close()


if __name__ == "__main__":
    main()
