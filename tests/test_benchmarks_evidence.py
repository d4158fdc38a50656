"""The experiment on the benefit of pre-training: plan, tiny runs and report."""

import json
import sys

import jax
import numpy as np
import pytest

from benchmarks import evidence, evidence_report, experiment
from dcpt_jax import config as configs
from dcpt_jax.train.run import prepare

SETTINGS = evidence.Settings(steps=24, pretrain_steps=8)


def planned(tmp_path, **changes):
    choice = {"arms": evidence.ARMS, "seeds": [0, 1], "stages": True, "more_steps": 5} | changes
    return evidence.plan(tmp_path, SETTINGS, **choice)


# --- the plan ------------------------------------------------------------------------------------


def test_one_seed_is_finished_before_the_next_begins(tmp_path):
    jobs = planned(tmp_path, stages=False)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert len({job.workdir for job in jobs}) == len(jobs) == 2 * (6 + 4)
    for job in jobs:
        configs.validate(job.config)
        assert job.config.seed == job.seed and not job.config.identity_start


def test_restorations_differ_in_their_start_and_length_alone(tmp_path):
    jobs = planned(tmp_path)
    restorations = {job.arm: job.config for job in jobs if job.seed == 0 and job.kind == "restore"}
    assert restorations["longer"].num_steps == 24 + 5
    scratch = configs.to_json(restorations["scratch"])
    for arm, config in restorations.items():
        found = {
            line.split(":")[0] for line in configs.differences(scratch, configs.to_json(config))
        }
        assert found == {
            "scratch": set(),
            "longer": {"config.num_steps"},
        }.get(arm, {"config.init_from"}), arm


def test_each_restoration_starts_from_a_run_before_it(tmp_path):
    jobs = planned(tmp_path)
    done = set()
    for job in jobs:
        if job.config.init_from:
            start, _, step = job.config.init_from.partition("/checkpoints/")
            assert start in done
            if step:
                assert int(step) in (2, 4, 6)
        done.add(str(job.workdir))
    assert [job.arm for job in jobs[-3:]] == ["dcpt_25", "dcpt_50", "dcpt_75"]
    (dcpt,) = (j.config for j in jobs if j.key == ("pretrain", "dcpt", 0))
    assert dcpt.checkpoint.every_steps == dcpt.validation.every_steps == 2
    assert dcpt.checkpoint.keep >= 4


def test_the_arms_match_their_descriptions(tmp_path):
    kinds = {job.arm: job.config for job in planned(tmp_path) if job.kind == "pretrain"}
    assert {arm: config.class_weight for arm, config in kinds.items()} == {
        "reproduction": 0, "dcpt": 1, "direct": 1, "maskdcpt": 1,
    }  # fmt: skip
    assert kinds["reproduction"].first_pass == kinds["dcpt"].first_pass == "clean"
    assert kinds["direct"].first_pass == "degraded"
    assert kinds["maskdcpt"].mode == "mask_pretrain"
    arms = [job.key for job in planned(tmp_path, arms=["direct"], seeds=[3], stages=False)]
    assert arms == [("pretrain", "direct", 3), ("restore", "direct", 3)]


def test_the_learning_rate_is_that_of_the_restorations():
    rates = []
    for flags in ([], ["--learning-rate", "5e-4"]):
        options = evidence.parse_options(["--output", "x", *flags])
        settings = evidence.settings_of(options)
        restoration = evidence.restoration_config(settings, 0)
        pretraining = evidence.pretraining_config(settings, "dcpt", 0)
        rates.append((restoration.optimizer.learning_rate, pretraining.optimizer.learning_rate))
    demo = configs.load("restore").optimizer.learning_rate
    assert rates == [(demo, 1e-3), (5e-4, 1e-3)]


def test_longer_costs_as_much_as_pretraining_and_restoration(tmp_path, monkeypatch):
    times = {"restore": 0.1, "dcpt": 0.25}
    monkeypatch.setattr(evidence, "measure_steps", lambda settings: times)
    assert evidence.open_experiment(tmp_path, SETTINGS, ["scratch", "dcpt"]) == 0
    assert evidence.open_experiment(tmp_path, SETTINGS, ["longer"]) == 20
    times["dcpt"] = 1.0  # measured once
    assert evidence.open_experiment(tmp_path, SETTINGS, evidence.ARMS) == 20
    with pytest.raises(ValueError, match=r"other settings \(steps: 24 -> 48\); .*--output"):
        evidence.open_experiment(tmp_path, evidence.Settings(steps=48, pretrain_steps=8), [])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--pretrain-steps 6", "--pretrain-steps is 6; it must be a multiple of 4"),
        ("--steps 0", "--steps is 0"),
        ("--batch-size 0", "--batch-size is 0"),
        ("--photos gone", "--photos: no such folder: gone"),
        ("--arms dcpt resnet", "invalid choice: 'resnet'"),
    ],
)
def test_flags_that_are_refused(flags, named, capsys):
    with pytest.raises(SystemExit):
        evidence.parse_options(["--output", "o", *flags.split()])
    assert named in capsys.readouterr().err


# --- the report ----------------------------------------------------------------------------------

CLASSES = ("rain", "haze")


def restoration(arm, seed, end, steps=(10, 20)):
    """A finished run whose PSNR rises by 1 dB to `end`; haze is 2 dB above rain."""
    along = [
        {"step": step, "psnr": end - back, "psnr_rain": end - back - 1, "psnr_haze": end - back + 1}
        for step, back in zip(steps, reversed(range(len(steps))), strict=True)
    ]
    return {
        "kind": "restore", "arm": arm, "seed": seed, "steps": steps[-1],
        "along": along, "final": along[-1],
    }  # fmt: skip


def rows_of(text, heading):
    """Cells of the table under a heading, by the first cell of each row."""
    section = text.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def three_seeds():
    runs = [restoration("scratch", seed, 20 + seed) for seed in (0, 1, 2)]
    return runs + [restoration("dcpt", seed, 20.5 + 1.1 * seed) for seed in (0, 1, 2)]


def test_means_and_spread_over_seeds():
    text = evidence_report.markdown(three_seeds())
    final = rows_of(text, "## At the end of the restoration")
    assert final["from scratch"] == [
        "3", "20", "21.00 ± 1.00 (20.00 to 22.00)",
        "20.00 ± 1.00 (19.00 to 21.00)", "22.00 ± 1.00 (21.00 to 23.00)",
    ]  # fmt: skip
    along = rows_of(text, "### haze")
    assert list(along) == ["step", "---", "10", "20"]
    assert along["10"][0] == "21.00 ± 1.00 (20.00 to 22.00)"
    # Paired: 0.5, 0.6 and 0.7 dB, though each arm alone spreads by a decibel.
    difference = rows_of(text, "## Differences at equal seeds, the first arm minus the second")[
        "DCPT vs. from scratch"
    ]
    assert difference[:3] == ["3", "better", "+0.60 ± 0.10 (+0.50 to +0.70)"]


def test_a_report_before_all_is_finished():
    runs = [*three_seeds()[:2], restoration("dcpt", 0, 21), restoration("direct", 4, 22, (10, 30))]
    text = evidence_report.markdown(runs)
    assert "Seeds with a finished run: 0, 1, 4; finished in all of these arms: none" in text
    assert rows_of(text, "## At the end of the restoration")["DCPT"][:3] == ["1", "20", "21.00"]
    differences = rows_of(text, "## Differences at equal seeds, the first arm minus the second")
    assert differences["DCPT vs. from scratch"][1] == "not judged, 1 of 3 seeds"
    assert "DCPT, direct vs. from scratch" not in differences
    assert rows_of(text, "### rain")["30"] == ["", "", "21.00"]
    with pytest.raises(ValueError, match="no restoration is finished"):
        evidence_report.markdown([{"kind": "pretrain", "arm": "dcpt", "seed": 0}])


@pytest.mark.parametrize(
    ("differences", "judged"),
    [
        ([0.1, 0.2, 0.3], "unclear"),  # 0.2 +- 4.303 * 0.1 / sqrt(3) = 0.248
        ([0.15, 0.2, 0.25], "better"),
        ([-0.15, -0.2, -0.25], "worse"),
        ([1.0, 1.0], "not judged, 2 of 3 seeds"),
    ],
)
def test_verdicts(differences, judged):
    assert evidence_report.verdict(differences) == judged


def test_accuracy_compared_with_the_gain_of_restoration():
    pretraining = {
        "kind": "pretrain", "arm": "dcpt", "seed": 0, "steps": 8,
        "along": [{"step": 2 * i, "accuracy": 0.2 * i} for i in (1, 2, 3, 4)],
    }  # fmt: skip
    runs = [pretraining, restoration("scratch", 0, 20), restoration("dcpt_50", 0, 21)]
    rows = rows_of(evidence_report.markdown(runs), "## How far the pre-training was")
    assert rows["0 %"] == ["0", "0", "untrained", "20.00"]
    assert rows["50 %"] == ["0", "4", "40.0%", "21.00"]
    assert "75 %" not in rows


def test_the_report_of_a_folder(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for run in three_seeds():
        experiment.note(tmp_path, run)
    assert experiment.read_runs(tmp_path) == three_seeds()
    assert evidence.main(["--report", "--output", str(tmp_path)]) == 0
    assert "better" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_the_table_does_not_need_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    experiment.note(tmp_path, restoration("scratch", 0, 20))
    assert evidence.main(["--report", "--output", str(tmp_path)]) == 1
    assert "pip install matplotlib" in capsys.readouterr().out
    assert "20.00" in (tmp_path / "report.md").read_text()


# --- the runs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_arms_of_a_seed_begin_with_the_same_network(photo_folder):
    settings = evidence.Settings(photos=str(photo_folder), crop_size=32, tiny=True)
    scratch = initial_network(evidence.restoration_config(settings, 3))
    for name in ("dcpt", "maskdcpt"):
        begun = initial_network(evidence.pretraining_config(settings, name, 3))
        jax.tree.map(np.testing.assert_array_equal, begun, scratch)
    other = initial_network(evidence.restoration_config(settings, 4))
    assert (np.asarray(other["intro"]["kernel"]) != scratch["intro"]["kernel"]).any()


def initial_network(config):
    return prepare(config).create_state().params["network"]


@pytest.mark.slow
def test_a_rehearsal_that_is_stopped_goes_on(tmp_path, photo_folder, monkeypatch, capsys):
    folders = ["--photos", str(photo_folder), "--validation", str(photo_folder)]
    command = ["--rehearse", "--output", str(tmp_path), "--seeds", "0", *folders]
    monkeypatch.setattr(experiment, "execute", stopped_after(3, experiment.execute))
    assert evidence.main(command) == 130
    assert len(experiment.read_runs(tmp_path)) == 3
    monkeypatch.undo()
    evidence.main(command)
    assert "13 runs, 10 of them unfinished" in capsys.readouterr().out
    runs = experiment.read_runs(tmp_path)
    assert len(runs) == len({(run["kind"], run["arm"]) for run in runs}) == 6 + 4 + 3
    for run in runs:
        ends = [one["step"] for one in run["along"]]
        assert ends[-1] == run["steps"] and ends == sorted(ends)
        wanted = "psnr_motion_blur" if run["kind"] == "restore" else "accuracy_motion_blur"
        assert wanted in run["final"] or run["arm"] == "direct"
        assert run["seconds"] > 0 and "jax" in run["versions"]
        assert str(tmp_path) not in json.dumps(run)
    assert (tmp_path / "report.md").exists()
    assert not list(tmp_path.glob("seed_0/*/restore/checkpoints"))
    assert len(list(tmp_path.glob("seed_0/dcpt/pretrain/checkpoints/*"))) == 4


def stopped_after(count, execute):
    """`execute`, stopped by a signal after this number of runs."""
    done = []

    def run(job):
        if len(done) == count:
            return None
        done.append(job)
        return execute(job)

    return run
