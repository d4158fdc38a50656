import pytest

from benchmarks import scaling

PROGRAM = """
  %all-reduce.1 = f32[64,32]{1,0} all-reduce(f32[64,32]{1,0} %a), channel_id=1, to_apply=%add
  %both = (f32[8]{0}, bf16[4,2]{1,0}) all-reduce-start(f32[8]{0} %b, bf16[4,2]{1,0} %c)
  %whole = f32[128]{0} all-gather(f32[16]{0} %d), dimensions={0}
  %part = f32[16]{0} reduce-scatter(f32[128]{0} %e), dimensions={0}, to_apply=%add
  %done = f32[8]{0} all-reduce-done(%both)
  %one = f32[] add(f32[] %f, f32[] %g)
"""


def test_collectives_are_read_off_a_program():
    sizes, counts = scaling.collectives_of(PROGRAM)
    assert sizes["all-reduce"] == 64 * 32 * 4 + 8 * 4 + 8 * 2
    assert (sizes["all-gather"], sizes["reduce-scatter"]) == (512, 64)
    assert counts["all-reduce"] == 2 and counts["all-to-all"] == 0


def test_bytes_sent_around_a_ring():
    sizes, counts = scaling.collectives_of(PROGRAM)
    case = scaling.Case(16, 8, 32, 10**9, 1e12, sizes, counts)
    reduced = 2 * (64 * 32 * 4 + 48) * 15 / 16
    assert scaling.bytes_sent(case) == pytest.approx((reduced, 512 * 7 / 8 + 64 * 7))
    row = scaling.table([case], step_ms=100, inside=400, between=50, per_host=8).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["16", "8", "512", "1.00", "1.00"]


@pytest.mark.slow
def test_a_case_is_compiled_for_simulated_devices(capsys, monkeypatch):
    import jax

    if jax.device_count() < 2:
        pytest.skip("needs simulated devices")
    assert scaling.main(["--case", "8", "8", "--batch-per-device", "1"]) == 0
    assert '"fsdp_devices": 8' in capsys.readouterr().out
