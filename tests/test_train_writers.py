import json

import numpy as np
from PIL import Image

from dcpt_jax.train import curves
from dcpt_jax.train.writers import MetricsFile, grouped, read_metrics


def test_metrics_of_steps_that_are_done_again_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsFile(path)
    for step in (2, 4, 6):
        writer.write_scalars(step, {"loss/loss": step / 2})
    with path.open("a") as file:
        file.write('{"step": 8, "loss')  # cut off by the end of the process
    writer = MetricsFile(path, first_step=4)
    writer.write_scalars(6, {"loss/loss": 9.0})
    assert [line["loss/loss"] for line in read_metrics(path)] == [1.0, 2.0, 9.0]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 6]


def test_damaged_lines_of_metrics_are_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    odd = ["", "null", "[1]", "3", '{"loss/loss": 1.0}', '{"step": "4", "loss/loss": 1.0}']
    odd += ['{"step": 4, "loss/loss": "x"}', '{"step": 4, "loss/loss": null}', "[" * 100_000]
    odd += ['{"step": 1' + "0" * 400 + "}", '{"step": 4.0}', '{"step": true}', "\0" * 500]
    good = {"step": 2, "loss/loss": 1.0}
    lines = [*odd, json.dumps(good), '{"step": 3, "loss/loss": NaN}', "\xff"]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    found = read_metrics(path)
    assert [line["step"] for line in found] == [2, 3] and found[0] == good
    MetricsFile(path, first_step=5).write_scalars(6, {"loss/loss": 9.0})
    found = read_metrics(path)
    assert [line["step"] for line in found] == [2, 3, 6]
    curves.draw(found, tmp_path / "curves.png")


def test_metrics_are_in_four_groups():
    values = {"loss": 1, "loss_class": 1, "psnr": 1, "learning_rate_network": 1, "data_wait": 1}
    assert list(grouped(values)) == [
        *("loss/loss", "loss/class", "quality/psnr", "schedule/learning_rate_network"),
        "speed/data_wait",
    ]
    assert list(grouped({"ssim_rain": 1}, validation=True)) == ["quality/validation/ssim_rain"]


def test_curves_show_the_measurements(tmp_path):
    curves.draw([], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())
    lines = [{"step": step, "loss/loss": 1 / step} for step in range(1, 20)]
    curves.draw(lines, tmp_path / "one.png")
    lines.append({"step": 20, "quality/validation/psnr": 30.0})  # one point alone
    curves.draw(lines, tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.height == 2 * one.height
        pixels = np.asarray(one).astype(int)
        assert (pixels[..., 2] > pixels[..., 0] + 80).sum() > 200  # a blue curve
