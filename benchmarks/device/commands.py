"""Runs the demo's commands with few steps: interruption by signal, resuming, restoring, evaluation.

Leaves `run.tar.gz`, the work directory of the restoration with its checkpoint, to be continued on a
CPU (see README.md).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.device import messages

_SHORT = ["--config.num_steps={steps}", "--config.log.every_steps=2",
          "--config.log.image_every_steps=0", "--config.validation.every_steps=0",
          "--config.checkpoint.every_steps=1000", "--config.checkpoint.keep=1"]  # fmt: skip

_PATIENCE = 300  # seconds to wait for the first steps


def command(name: str, workdir: Path, *flags: str, steps: int = 0) -> list[str]:
    """The command line of a config of `configs/`."""
    short = [flag.format(steps=steps) for flag in _SHORT] if steps else []
    return [sys.executable, "-m", "dcpt_jax.main", f"--config=configs/{name}.py",
            f"--workdir={workdir}", *short, *flags]  # fmt: skip


def finished(name: str, line: list[str], expected: str) -> None:
    """Runs a command, reports its time, and whether it succeeded with the expected output."""
    start = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True)
    figures: dict[str, Any] = {"s": time.perf_counter() - start, "exit": done.returncode}
    figures["right"] = done.returncode == 0 and expected in done.stdout + done.stderr
    if not figures["right"]:
        figures["error"] = (done.stdout + done.stderr)[-1500:]
    messages.send("figures", {name: figures})


def stopped(line: list[str], checkpoints: Path) -> None:
    """Starts a command, ends it by SIGTERM during training, and reports the result."""
    start = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # The first metrics make the event file larger than its header.
    while process.poll() is None and time.perf_counter() - start < _PATIENCE:
        if any(file.stat().st_size > 300 for file in checkpoints.parent.glob("events.*")):
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    saved = [int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()]
    figures = {"s": time.perf_counter() - start, "exit": process.returncode, "saved": saved}
    figures["right"] = bool(saved) and "the same command continues" in output
    if not figures["right"]:
        figures["error"] = output[-1500:]
    messages.send("figures", {"pretrain, stopped by SIGTERM": figures})


# A network that compiles in seconds.
TINY = (
    *("--config.model.width=4", "--config.model.encoder_blocks=(1,)"),
    "--config.model.decoder_blocks=(1,)",
)


def main() -> None:
    """Runs the commands in sequence."""
    options = messages.arguments()
    flags = [f"--config.data.root={options['photos']}"] if options["photos"] else []
    if options["tiny"]:
        flags += ["--config.batch_size=4", "--config.data.crop_size=32", *TINY]
    steps = 10 if options["tiny"] else 60
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        first = command("pretrain", base / "pretrain", *flags, steps=500)
        stopped(first, base / "pretrain/checkpoints")
        saved = [int(p.name) for p in (base / "pretrain/checkpoints").glob("*") if p.name.isdigit()]
        total = max(saved, default=0) + steps
        # The same command with another number of steps; the cosine keeps its length.
        again = command(
            "pretrain",
            base / "pretrain",
            *flags,
            *(f"--config.{key}.decay_steps=500" for key in ("optimizer", "classifier_optimizer")),
            "--config.checkpoint.allow_config_change",
            steps=total,
        )
        finished("pretrain, continued", again, "weights:")
        restore = command(
            "restore", base / "restore", *flags,
            f"--config.init_from={base / 'pretrain'}", "--config.optimizer.decay_steps=2000",
            steps=steps,
        )  # fmt: skip
        finished("restore", restore, "weights:")
        test = command(
            "evaluate", base / "evaluate", f"--config.init_from={base / 'restore'}",
            *(["--config.tasks=noise", "--config.data.crop_size=64"] if options["tiny"] else []),
        )  # fmt: skip
        finished("evaluate", test, "wrote ")
        if not (base / "restore").is_dir():
            return
        archive = Path(options["out"]) / "run.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(base / "restore", "restore")
        messages.send("figures", {"run.tar.gz": {"MB": archive.stat().st_size / 1e6}})


if __name__ == "__main__":
    main()
