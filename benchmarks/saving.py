"""How long a checkpoint holds up training: `python -m benchmarks.saving [--fsdp N]`.

Saves the state of the paper's NAFNet with AdamW and its moving average several times, without
training. Prints for each save how long `Checkpoints.save` blocked and how long the writing took
after that. Simulated devices: XLA_FLAGS=--xla_force_host_platform_device_count=8.
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp

from dcpt_jax import create_model
from dcpt_jax.train import sharding
from dcpt_jax.train.checkpoints import Checkpoints
from dcpt_jax.train.optimizer import adamw
from dcpt_jax.train.state import TrainState, create_state


def make_state(fsdp_devices: int) -> TrainState:
    """State of the paper's NAFNet, split over `fsdp_devices`."""
    model, optimizers = create_model("nafnet"), {"network": adamw(1e-3)}

    def initialise(rng: jax.Array) -> TrainState:
        params = {"network": model.init(rng, jnp.zeros((1, 64, 64, 3)))["params"]}
        return create_state(params, optimizers, rng=rng, averaged=("network",))

    rng = jax.random.PRNGKey(0)
    mesh = sharding.make_mesh(jax.device_count(), fsdp_devices=fsdp_devices)
    shardings = sharding.state_shardings(jax.eval_shape(initialise, rng), mesh)
    return jax.block_until_ready(jax.jit(initialise, out_shardings=shardings)(rng))


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fsdp", type=int, default=1, help="config.fsdp_devices")
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--folder", help="where the checkpoints go (default: a temporary folder)")
    options = parser.parse_args()
    state = make_state(options.fsdp)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    print(f"state of {size:.0f} MB on {jax.device_count()} devices, fsdp_devices {options.fsdp}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        checkpoints = Checkpoints(folder, keep=1)
        for step in range(1, options.saves + 1):
            state = jax.block_until_ready(state.replace(step=jnp.full_like(state.step, step)))
            began = time.perf_counter()
            checkpoints.save(state, batches=step, config={}, model={})
            blocked = time.perf_counter() - began
            checkpoints.wait()
            written = time.perf_counter() - began - blocked
            print(f"save {step}: blocked {blocked:.2f} s, written {written:.2f} s later")
        checkpoints.close()


if __name__ == "__main__":
    main()
