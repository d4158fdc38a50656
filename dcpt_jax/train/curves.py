"""`curves.png`: loss, quality and learning rates of a run over its steps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dcpt_jax import files

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 260, 90, 34, 30  # pixels of a panel and its margins
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf")
# Panels: (title, keys of `metrics.jsonl`, whether the scale is logarithmic).
_PANELS = (
    ("loss", ("loss/loss", "loss/pixel", "loss/class", "loss/l1", "loss/fft"), True),
    ("PSNR in dB", ("quality/psnr", "quality/validation/psnr"), False),
    (
        "accuracy and SSIM",
        ("quality/accuracy", "quality/validation/accuracy", "quality/validation/ssim"),
        False,
    ),
    (
        "learning rate",
        tuple(
            f"schedule/learning_rate_{part}" for part in ("network", "classifier", "reconstruction")
        ),
        True,
    ),
)
Curve = Sequence[tuple[int, float]]  # (step, value)


def draw(lines: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws the lines of a `metrics.jsonl` into a PNG file, in the panels that have values."""
    panels = []
    for title, keys, logarithmic in _PANELS:
        curves = {
            key.partition("/")[2]: [
                (int(line["step"]), line[key])
                for line in lines
                if math.isfinite(line.get(key, math.nan))
            ]
            for key in keys
        }
        curves = {name: curve for name, curve in curves.items() if curve}
        if curves:
            panels.append(_panel(title, curves, logarithmic))
    if not panels:
        return
    sheet = Image.new("RGB", (_WIDTH, _HEIGHT * len(panels)), "white")
    for number, panel in enumerate(panels):
        sheet.paste(panel, (0, number * _HEIGHT))
    with files.replacing(path) as temporary:
        sheet.save(temporary, "png")


def _panel(title: str, curves: Mapping[str, Curve], logarithmic: bool) -> Image.Image:
    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    values = [value for curve in curves.values() for _, value in curve]
    logarithmic = logarithmic and min(values) > 0
    scale = math.log10 if logarithmic else float
    steps = [step for curve in curves.values() for step, _ in curve]
    low, high = min(map(scale, values)), max(map(scale, values))
    span, steps_span = (high - low) or 1.0, (max(steps) - min(steps)) or 1
    width, height = _WIDTH - _LEFT - 20, _HEIGHT - _TOP - _BOTTOM

    def position(step: int, value: float) -> tuple[float, float]:
        x = _LEFT + width * (step - min(steps)) / steps_span
        return x, _TOP + height * (1 - (scale(value) - low) / span)

    pen.rectangle((_LEFT, _TOP, _LEFT + width, _TOP + height), outline="#bbbbbb")
    for part in (0.0, 0.5, 1.0):
        level, y = low + part * span, _TOP + height * (1 - part)
        text = f"{10**level if logarithmic else level:.4g}"
        pen.line((_LEFT, y, _LEFT + width, y), fill="#e5e5e5")
        pen.text((_LEFT - 8 - font.getlength(text), y - 8), text, fill="#444444", font=font)
    pen.text((_LEFT, _TOP + height + 8), f"step {min(steps)}", fill="#444444", font=font)
    last = str(max(steps))
    end = (_LEFT + width - font.getlength(last), _TOP + height + 8)
    pen.text(end, last, fill="#444444", font=font)
    pen.text((10, 8), title, fill="black", font=ImageFont.load_default(16))
    x = _WIDTH - 20
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        points = [position(*point) for point in curve]
        if len(points) > 1:
            pen.line(points, fill=colour, width=2)
        for px, py in points if len(points) < 40 else ():
            pen.ellipse((px - 3, py - 3, px + 3, py + 3), fill=colour)
        x -= font.getlength(name) + 14
        pen.text((x, 10), name, fill=colour, font=font)
    return canvas
