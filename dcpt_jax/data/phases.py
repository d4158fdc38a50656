"""Progressive training: phases with crops and batches of different sizes."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple


class Phase(NamedTuple):
    """Consecutive steps with the same crop and batch size."""

    first_step: int  # number of steps before the phase
    crop_size: int  # in pixels
    batch_size: int  # images per batch


def parse(text: str, *, crop_size: int, batch_size: int) -> tuple[Phase, ...]:
    """All phases of a run.

    Args:
        text: STEP:CROPxBATCH for each phase after the first, joined by commas: "92000:160x40".
        crop_size: of the first phase.
        batch_size: of the first phase.

    Raises:
        ValueError: if the text is malformed, or its steps do not increase.
    """
    phases = [Phase(0, crop_size, batch_size)]
    for part in text.split(",") if text.strip() else ():
        match = re.fullmatch(r"(\d+):(\d+)x(\d+)", part.strip(), re.ASCII)
        if match is None:
            raise ValueError(
                f"{part.strip()!r} is not of the form STEP:CROPxBATCH, e.g. 92000:160x40"
            )
        phases.append(Phase(*map(int, match.groups())))
    for phase, next_phase in itertools.pairwise(phases):
        if next_phase.first_step <= phase.first_step:
            raise ValueError(
                f"step {next_phase.first_step} does not come after step {phase.first_step}; steps "
                "must increase; before the first of them, data.crop_size and batch_size apply"
            )
    return tuple(phases)


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of the step with this number, counted from 0."""
    return [phase for phase in phases if phase.first_step <= step][-1]


def steps_left(phases: Sequence[Phase], step: int, total: int) -> float:
    """Steps after `step`, weighted by pixels per batch relative to the last step done."""

    def pixels(number: int) -> int:
        phase = phase_at(phases, number)
        return phase.batch_size * phase.crop_size**2

    ends = [phase.first_step for phase in phases if step < phase.first_step < total]
    spans = itertools.pairwise((step, *ends, total))
    return sum((end - start) * pixels(start) for start, end in spans) / pixels(max(step - 1, 0))
