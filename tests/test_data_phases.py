import pytest

from dcpt_jax.data.phases import Phase, parse, phase_at, steps_left

# Restormer (Zamir et al., CVPR 2022), section 4.
RESTORMER = "92000:160x40,156000:192x32,204000:240x16,240000:320x8,276000:384x8"


def test_phases_and_the_steps_that_are_theirs():
    phases = parse("10:32x4, 20:64x2", crop_size=16, batch_size=8)
    assert phases == (Phase(0, 16, 8), Phase(10, 32, 4), Phase(20, 64, 2))
    assert [phase_at(phases, step).crop_size for step in (0, 9, 10, 19, 20, 99)] == [
        *(16, 16, 32, 32, 64, 64)
    ]
    assert parse("", crop_size=16, batch_size=8) == (Phase(0, 16, 8),)
    assert len(parse(RESTORMER, crop_size=128, batch_size=64)) == 6


@pytest.mark.parametrize(
    ("step", "left"),
    [
        (0, 10 + 2 * 10 + 4 * 5),  # a batch of the second phase has twice the pixels of the first
        (10, 2 * 10 + 4 * 5),  # the speed is that of the first phase's last steps
        (11, 9 + 2 * 5),
        (24, 1),
        (25, 0),
    ],
)
def test_the_steps_left_are_weighted_by_pixels(step, left):
    phases = parse("10:32x4,20:64x2,30:128x9", crop_size=16, batch_size=8)
    assert steps_left(phases, step, 25) == left
