"""Progress of a run in the terminal: a bar, or lines if the output is not a terminal."""

import sys
import time
from collections.abc import Mapping, Sequence

import tqdm

from dcpt_jax.data.phases import Phase, steps_left
from dcpt_jax.train import processes

# Metrics shown in the bar: (key, short name, format).
_SHOWN = (("loss", "loss", "{:.4f}"), ("accuracy", "accuracy", "{:.0%}"), ("psnr", "dB", "{:.2f}"))


class Progress:
    """Progress of one run: loss, accuracy, steps per second and time left."""

    def __init__(self, name: str, *, start: int, total: int, phases: Sequence[Phase]):
        """Starts the clock."""
        self._name, self._total, self._phases = name, total, phases
        self._step, self._time = start, time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and processes.is_main():
            self._bar = tqdm.tqdm(
                initial=start,
                total=total,
                desc=name,
                dynamic_ncols=True,
                smoothing=0.05,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar}| {rate_fmt}{postfix}",
                unit=" steps",
            )

    def step(self) -> None:
        """Counts a step."""
        if self._bar is not None:
            self._bar.update()

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows mean metrics since the last report, speed and time left."""
        text = "  ".join(
            f"{label} {form.format(metrics[key])}" for key, label, form in _SHOWN if key in metrics
        )
        # Speed since the last report only, because it changes with validations and phases.
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        remaining = steps_left(self._phases, step, self._total) / max(rate, 1e-9)
        remaining = f"{tqdm.tqdm.format_interval(remaining)} left"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{remaining}  {text}", refresh=False)
            return
        processes.say(f"{self._name} {step}/{self._total}  {text}  {rate:.2f} steps/s  {remaining}")

    def resume(self) -> None:
        """Restarts the clock, so that the time since the last report does not count."""
        self._time = time.monotonic()
        if self._bar is not None:
            self._bar.unpause()

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the means over classes of a validation."""
        names = {"psnr": "{:.2f} dB", "ssim": "SSIM {:.4f}", "accuracy": "accuracy {:.1%}"}
        text = ", ".join(form.format(metrics[key]) for key, form in names.items() if key in metrics)
        with tqdm.tqdm.external_write_mode():
            processes.say(f"{self._name} {step}/{self._total}  validation: {text}")

    def close(self) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
