"""The experiment on transfers: plan and table."""

import pytest

from benchmarks import experiment, transfer
from dcpt_jax import config as configs
from tests.test_benchmarks_evidence import rows_of


def planned(tmp_path, tasks=transfer.TASKS, seeds=(0, 1)):
    return transfer.plan(tmp_path, transfer.Settings(), tasks=tasks, seeds=seeds)


def test_each_direction_is_run_with_and_without_guidance_from_one_network(tmp_path):
    jobs = planned(tmp_path)
    assert len(jobs) == len({job.key for job in jobs}) == len({job.workdir for job in jobs}) == 36
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    done = []
    for job in jobs:
        configs.validate(job.config)
        assert any(job.starts_from(other) for other in done) == (job.kind != "restore")
        done.append(job)
    by_key = {job.key: job.config for job in jobs}
    guided, unguided = (by_key[kind, "rain to motion_blur", 1] for kind in ("guided", "unguided"))
    assert guided.tasks == "motion_blur" and guided.init_from.endswith("seed_1/rain/classify")
    (change,) = configs.differences(configs.to_json(unguided), configs.to_json(guided))
    assert change.startswith("config.guidance")
    assert by_key["classify", "rain", 1].init_from.endswith("seed_1/rain/restore")


def test_runs_whose_checkpoints_are_gone_are_done_again(tmp_path):
    jobs = planned(tmp_path, tasks=("noise", "rain"), seeds=(0,))
    for job in jobs[:-1]:
        experiment.note(tmp_path, {"kind": job.kind, "arm": job.arm, "seed": 0})
    again = [job.key[:2] for job in experiment.unfinished(jobs, tmp_path)]
    assert again == [("restore", "rain"), ("classify", "rain"), ("guided", "rain to noise")]
    (jobs[5].workdir / "checkpoints").mkdir(parents=True)  # the classifier's
    assert experiment.unfinished(jobs, tmp_path) == jobs[-1:]
    experiment.note(tmp_path, {"kind": "guided", "arm": "rain to noise", "seed": 0})
    assert experiment.unfinished(jobs, tmp_path) == []


def finished(kind, arm, seed, **final):
    return {"kind": kind, "arm": arm, "seed": seed, "final": final}


def test_the_table():
    runs = [finished("classify", "rain", 0, accuracy=0.75)]
    for seed, gain in enumerate((0.15, 0.2, 0.25)):
        runs.append(finished("restore", "noise", seed, psnr=30.0))
        for arm, start in (("rain to noise", 28.0), ("noise to rain", 24.0)):
            runs.append(finished("unguided", arm, seed, psnr=start + seed))
            if (arm, seed) != ("noise to rain", 2):
                runs.append(finished("guided", arm, seed, psnr=start + seed + gain))
    rows = rows_of(transfer.markdown(runs), "(least to greatest).\n")
    assert rows["rain to noise"] == [
        "3", "30.00 ± 0.00 (30.00 to 30.00)", "29.00 ± 1.00 (28.00 to 30.00)",
        "29.20 ± 1.05 (28.15 to 30.25)", "+0.20 ± 0.05 (+0.15 to +0.25)", "better",
    ]  # fmt: skip
    assert rows["noise to rain"][0] == "2" and rows["noise to rain"][1] == ""
    assert rows["noise to rain"][-1] == "not judged, 2 of 3 seeds"
    assert rows["mean of these"][0] == "2"
    assert rows["rain"] == ["1", "75.0%"]
    with pytest.raises(ValueError, match="no direction is finished"):
        transfer.markdown(runs[:3])


def test_a_direction_needs_two_degradations(capsys):
    for wrong in (["rain"], ["rain", "rain"]):
        with pytest.raises(SystemExit):
            transfer.parse_options(["--output", "o", "--tasks", *wrong])
        assert "two or three different" in capsys.readouterr().err
