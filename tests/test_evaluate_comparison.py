"""Comparison of measured and published results: comparability and tables."""

import csv
import dataclasses
import io

import pytest

from dcpt_jax.evaluate import comparison, formats
from dcpt_jax.evaluate.comparison import ComparisonError, EvaluatedRun, Measured, compare
from dcpt_jax.metrics import Convention

TESTS = {
    "rain": ("rain100l", 100),
    "noise": ("cbsd68 noise:25", 68),
    "haze": ("sots", 500),
    "low_light": ("lol", 15),
    "motion_blur": ("gopro", 1111),
}


def run_of(name="ours", *, classes=TESTS, **changes):
    """A run of 5d on the published test sets: 30 dB everywhere."""
    measured = {
        one: Measured(30.0, 0.9, 20.0, images, f"pairs of {test}", test)
        for one, (test, images) in classes.items()
    }
    mean = Measured(30.0, 0.9, 20.0, sum(m.samples for m in measured.values()))
    return dataclasses.replace(
        EvaluatedRun(name, "5d", "nafnet", Convention(), 0, measured, mean), **changes
    )


def with_class(run, name, **changes):
    changed = dataclasses.replace(run.classes[name], **changes)
    return dataclasses.replace(run, classes={**run.classes, name: changed})


def methods_of(found):
    return [method for method, _ in found.methods]


def row(found, name):
    return next(one for one in found.rows if one.name == name)


def test_the_backbone_without_and_with_pretraining_by_hand():
    found = compare([run_of()])
    assert methods_of(found) == ["NAFNet", "DCPT-NAFNet"]
    assert [s.psnr for s in row(found, "haze").published] == [25.23, 29.47]
    assert [s.psnr for s in row(found, "mean").published] == [27.76, 29.84]
    assert found.header == ""
    text = formats.to_markdown(found)
    assert text.startswith(
        "PSNR in dB / SSIM, measured and published: RGB, rounded to 8 bits, whole images.\n"
    )
    assert (
        "| class | samples | degraded | ours | NAFNet (second-hand) | difference "
        "| DCPT-NAFNet (published) | difference | convention |"
    ) in text
    setting = "RGB, rounded to 8 bits, whole images"
    assert (
        "| haze | 500 | 20.00 | 30.00 / 0.900 | 25.23 / - | +4.77 / - | 29.47 / - | +0.53 / - "
        f"| {setting} |"
    ) in text
    assert (
        "| mean | 1794 | 20.00 | 30.00 / 0.900 | 27.76 / 0.881 | +2.24 / +0.019 "
        f"| 29.84 / 0.914 | +0.16 / -0.014 | {setting} |"
    ) in text
    assert "- DCPT-NAFNet: Hu et al., DCPT (ICLR 2025), arXiv 2501.15510" in text
    assert "- NAFNet: " in text and "second-hand: the publication reports" in text
    assert "up to 0.67 dB lower" in text
    assert "MaskDCPT-NAFNet are not shown: their convention is different, RGB, unr" in text
    assert "- rain: measured on pairs of rain100l." in text


def test_other_photos_have_no_published_figures_beside_them():
    run = run_of()
    for name in run.classes:
        run = with_class(run, name, test_set="", data="synthetic on 3 photos")
    for methods in (None, ["DCPT-NAFNet"]):
        found = compare([run], methods)
        assert found.methods == () and all(r.published == () for r in found.rows)
        text = formats.to_markdown(found)
        assert "29.47" not in text and "NAFNet" not in text
        assert text.splitlines()[0].endswith(
            "Not compared with published results, as the test images differ: all classes."
        )


@pytest.mark.parametrize(
    "changes",
    [{"test_set": ""}, {"test_set": "cbsd68 noise:15"}, {"samples": 67}],
    ids=["other photos", "another strength", "not all of it"],
)
def test_a_class_of_other_data_has_none_and_then_the_mean_has_none(changes):
    found = compare([with_class(run_of(), "noise", **changes)], ["DCPT-NAFNet"])
    assert row(found, "noise").published == (None,)
    assert row(found, "rain").published[0].psnr == 35.68
    assert row(found, "mean").published == (None,)
    assert "as the test images differ: noise." in formats.heading(found)
    assert "| noise | " in formats.to_markdown(found)
    assert "| 30.00 / 0.900 | - | - | RGB" in formats.to_markdown(found)


def test_crops_have_no_published_figures_beside_them():
    assert compare([run_of(crop_size=192)]).methods == ()


def test_a_part_of_the_classes_has_no_published_mean():
    run = run_of(classes={"rain": TESTS["rain"]})
    found = compare([run], ["DCPT-NAFNet"])
    assert row(found, "rain").published[0].psnr == 35.68
    assert row(found, "mean").published == (None,)


def test_published_figures_of_another_convention_are_refused():
    with pytest.raises(ComparisonError) as error:
        compare([run_of()], ["DCPT-NAFNet", "MaskDCPT-NAFNet"])
    assert "ours: RGB, rounded to 8 bits" in str(error.value)
    assert "the published MaskDCPT-NAFNet: RGB, unrounded floats" in str(error.value)
    assert "--config.channel=rgb --config.rounding=none" in str(error.value)
    floats = run_of(convention=Convention("rgb", "none"))
    found = compare([floats])
    assert methods_of(found) == ["MaskDCPT-NAFNet"]
    assert row(found, "noise").published == (None,)  # of clipped noise
    assert compare([run_of(convention=Convention("y"))]).methods == ()


def test_runs_of_other_conventions_classes_or_data_are_refused():
    one = run_of("one")
    with pytest.raises(ComparisonError, match=r"conventions differ \(one: RGB, rounded"):
        compare([one, run_of("two", convention=Convention("y", "uint8"))])
    with pytest.raises(ComparisonError, match=r"two: RGB.*crops of 64x64"):
        compare([one, run_of("two", crop_size=64)])
    with pytest.raises(ComparisonError, match=r"two rain; evaluate both with the same --config\.t"):
        compare([one, run_of("two", classes={"rain": TESTS["rain"]})])
    other = with_class(run_of("two"), "rain", test_set="", data="my photos")
    with pytest.raises(
        ComparisonError, match=r"rain was measured on different data: .* of my photos"
    ):
        compare([one, other])
    # The same test set in another folder is the same data.
    elsewhere = with_class(run_of("two"), "rain", data="pairs of rain100l in /mnt")
    assert len(compare([one, elsewhere]).runs) == 2


def test_an_unknown_method_is_reported_with_the_known_ones():
    with pytest.raises(ComparisonError, match=r"'DCPT-UNet' for 5d; known: AirNet, IDR"):
        compare([run_of()], ["DCPT-UNet"])
    with pytest.raises(ComparisonError, match=r"for rain,haze; known: none"):
        compare([run_of(task_set="rain,haze")], ["DCPT-NAFNet"])
    found = compare([run_of(task_set="rain,haze")])
    assert found.header == "There are no published results for networks trained on rain,haze."


def test_no_published_columns_if_none_are_wanted():
    found = compare([run_of()], [])
    assert found.methods == () and found.header == ""


def test_two_runs_have_a_difference_each():
    two = with_class(run_of("two"), "haze", psnr=29.0)
    text = formats.to_markdown(compare([run_of("one"), two], ["DCPT-NAFNet"]))
    assert "| one | two | DCPT-NAFNet (published) | difference of one | difference of two |" in text
    assert "30.00 / 0.900 | 29.00 / 0.900 | 29.47 / - | +0.53 / - | -0.47 / - |" in text


def test_csv_can_be_read_back():
    text = formats.to_csv(compare([with_class(run_of(), "noise", test_set="", data="a, b")]))
    lines = list(csv.DictReader(io.StringIO(text)))
    haze = [line for line in lines if line["class"] == "haze"]
    assert [line["published"] for line in haze] == ["NAFNet", "DCPT-NAFNet"]
    assert [line["second_hand"] for line in haze] == ["yes", "no"]
    assert haze[1]["psnr_difference"] == "0.5300" and haze[1]["ssim_published"] == ""
    assert haze[1]["convention"] == "RGB, rounded to 8 bits, whole images"
    (noise,) = (line for line in lines if line["class"] == "noise")
    assert noise["published"] == noise["psnr_published"] == "" and noise["data"] == "a, b"
    assert float(noise["psnr"]) == 30.0


def test_latex_escapes_special_characters():
    run = with_class(run_of("a_b & c%"), "rain", data="pairs in {x}\\y")
    text = formats.to_latex(compare([run], ["DCPT-NAFNet"]))
    assert r"a\_b \& c\%" in text and r"low\_light & 15 & 20.00" in text
    assert r"pairs in \{x\}\textbackslash{}y" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 7 and {line.replace(r"\&", "").count("&") for line in body} == {6}
    assert r"\begin{tabular}{lrrrrrl}" in text and text.count("{") == text.count("}")


def test_a_run_is_read_from_the_files_of_an_evaluation(tmp_path):
    with pytest.raises(ComparisonError, match=r"contains no evaluation\.json"):
        comparison.read_runs([tmp_path])
    (tmp_path / "evaluation.json").write_text('{"task_set": "5d", "classes": {}}')
    with pytest.raises(ComparisonError, match=r"lacks the key 'architecture'.*again"):
        comparison.read_runs([tmp_path])
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ComparisonError, match="is not JSON"):
        comparison.read_runs([tmp_path])
