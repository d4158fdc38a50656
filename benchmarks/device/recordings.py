"""Checks recorded networks, classifiers and training runs on the device, in each precision.

The recordings are those of the tests (`tests/golden.py`); "highest" must agree with them as on the
CPU, the others within the bounds below.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.device import messages
from dcpt_jax.precision import matmul_precision
from tests import golden, test_models_classifier, test_train_steps

# Bounds of the relative error (ratio of L2 norms) of outputs and features, logits and losses. TF32
# keeps 10 bits of a factor, bfloat16 7 bits of everything.
BOUNDS = {"default": 5e-3, "high": 5e-3, "bfloat16": 5e-2}
SETTINGS = {  # dtype and matmul precision
    "highest": ("float32", "highest"),
    "default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
    "high": ("float32", "high"),
}


def relative(ours: Any, recorded: np.ndarray) -> float:
    """L2 norm of the difference, relative to the recorded values."""
    recorded = np.asarray(recorded, np.float64)
    difference = np.asarray(ours, np.float64).reshape(recorded.shape) - recorded
    return float(np.linalg.norm(difference) / max(np.linalg.norm(recorded), 1e-30))


def largest(ours: Any, recorded: np.ndarray) -> float:
    """Largest absolute difference of an element."""
    return float(np.abs(np.asarray(ours, np.float64).reshape(recorded.shape) - recorded).max())


def network(case: str, dtype: Any) -> dict[str, float]:
    """Checks output, features and gradients of a recorded network."""
    config, recorded = golden.read_case(f"models/{case}")
    model, variables = golden.recorded_network(config, dtype, config["weight_salt"])
    restored, features = golden.run(
        model, variables, jnp.asarray(recorded["x"], dtype), method="restored_and_features"
    )
    errors = config["f32_vs_f64_max_abs"]
    pairs = [(restored, recorded["y"], errors["y"])]
    pairs += [
        (feature, recorded[f"feat_{i}"], errors["feats"][i]) for i, feature in enumerate(features)
    ]
    return {
        "of allowed": max(largest(a, b) / (10 * e) for a, b, e in pairs),
        "relative": max(relative(a, b) for a, b, _ in pairs),
        "output relative": relative(restored, recorded["y"]),
    }


def classifier(case: str, dtype: Any) -> dict[str, float]:
    """Checks the logits of a recorded classifier."""
    config, recorded, model, variables, inputs = test_models_classifier.recorded_case(case, dtype)
    logits = golden.run(model, variables, *inputs)
    allowed = 10 * config["f32_vs_f64_max_abs"]
    return {
        "of allowed": largest(logits, recorded["logits"]) / allowed,
        "relative": relative(logits, recorded["logits"]),
    }


def steps(case: str, dtype: Any) -> dict[str, float]:
    """Checks the losses and final parameters of a recorded training run.

    Adam moves an entry whose gradient is near zero by the learning rate in either direction, so the
    result is the number of parameters that differ by more than the tests allow.
    """
    # As in training, parameters stay float32 for any compute dtype.
    recorded, final, metrics, state, modules = test_train_steps._replay(
        case, jnp.float32, compute=dtype
    )
    ratios, relatives = [], []
    for single, double, values in zip(
        recorded["records_f32"], recorded["records_f64"], metrics, strict=True
    ):
        triples = zip(
            test_train_steps._our_losses(values),
            test_train_steps._recorded_losses(single),
            test_train_steps._recorded_losses(double),
            strict=True,
        )
        for ours, expected, exact in triples:
            if ours is not None:
                allowed = max(10 * abs(expected - exact), 2e-6)
                ratios.append(abs(float(ours) - exact) / allowed)
                relatives.append(abs(float(ours) - exact) / abs(exact))
    off = total = 0
    for prefix, arrays in test_train_steps._trees(state, modules):
        for key, value in arrays.items():
            if (key := f"{prefix}/{key}") in final:
                off += int((np.abs(value - final[key]) > 3e-6).sum())
                total += value.size
    return {
        "of allowed": max(*ratios, off / total / 1e-3),
        "relative": max(relatives),
        "parameters off": off / total,
    }


KINDS: dict[str, Callable[[str, Any], dict[str, float]]] = {
    "network": network,
    "classifier": classifier,
    "steps": steps,
}


def main() -> None:
    """Checks the requested recordings in sequence."""
    options = messages.arguments()
    golden.FULL = Path(options["golden"])
    for kind, case in options["cases"]:
        for setting, (dtype, precision) in SETTINGS.items():
            try:
                with matmul_precision(precision):
                    errors = KINDS[kind](case, jnp.dtype(dtype).type)
                if setting == "highest":
                    errors["right"] = errors["of allowed"] <= 1
                else:
                    errors["right"] = errors["relative"] <= BOUNDS[setting]
            except Exception as error:
                errors = {"error": f"{type(error).__name__}: {error}"[-600:]}
            messages.send("figures", {f"{case}, {setting}": errors})


if __name__ == "__main__":
    main()
