import dataclasses
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

import dcpt_jax
from dcpt_jax import images, weights
from dcpt_jax.convert.files import write_checkpoints
from dcpt_jax.images import listing
from dcpt_jax.labels import Labels
from dcpt_jax.models import parameter_shapes
from dcpt_jax.restore import command
from dcpt_jax.restore.command import main, parser, plan
from dcpt_jax.weights import folders
from dcpt_jax.weights.description import read_description, write_description
from tests.conftest import TINY_BACKBONES
from tests.profiles import rgb_profile
from tests.test_restore_predictor import photo, small_network

SIZE = (24, 32)


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory):
    """Weights of the small random network, described as trained on crops of 16 pixels."""
    model, params = small_network()
    description = weights.describe(model, crop_size=16)
    folder = tmp_path_factory.mktemp("run") / "weights"
    return weights.save_weights(folder, {"network": params}, description)


@pytest.fixture
def identity(monkeypatch):
    """Returns the input, so that files and names can be tested without a network."""
    restores_by(monkeypatch, lambda image: image)


def restores_by(monkeypatch, predict):
    """Replaces the weights by a function, and a classifier without output."""
    monkeypatch.setattr(command, "_predictor", lambda *_: (predict, lambda image: ""))


def put(path, seed=0, size=SIZE):
    """Writes a picture, whatever the name, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower() if path.suffix.lower() in images.WRITABLE_SUFFIXES else ".png"
    pixels = images.to_uint8(photo(*size, seed=seed))[..., ::-1]
    path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    return path


def test_a_file_of_the_original_restores_without_converting(tmp_path, capsys):
    model, params = small_network()
    write_checkpoints({tmp_path / "net.pth": dcpt_jax.to_torch(params, model)})
    weights.save_weights(
        tmp_path / "w",
        {"network": params},
        weights.describe(model),
    )
    source = put(tmp_path / "photo.png")
    for name in ("net.pth", "w"):
        assert run(source, "--output", tmp_path / f"{name}_out", "--weights", tmp_path / name) == 0
    restored = [images.read_pixels(tmp_path / f"{n}_out/photo.png") for n in ("net.pth", "w")]
    np.testing.assert_array_equal(*restored)
    assert "recognised in" in capsys.readouterr().out
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    assert run(source, "--output", tmp_path / "o", "--weights", tmp_path / "page.pth") == 2
    assert "page.pth is a web page" in capsys.readouterr().err


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def targets(inputs, output, form="png"):
    output.mkdir(exist_ok=True)
    todo = plan(inputs, output, form)
    assert not todo.failures
    return [str(job.target.relative_to(output)) for job in todo.jobs]


def run(*arguments):
    return main([str(argument) for argument in arguments])


# The whole


def test_a_folder_is_restored_with_its_structure_and_a_second_run_skips_it(
    tmp_path, weights_folder, capsys
):
    one = put(tmp_path / "in/one.png")
    put(tmp_path / "in/sub/two.jpg", seed=1)
    arguments = (tmp_path / "in", "--output", tmp_path / "out", "--weights", weights_folder)
    assert run(*arguments) == 0
    assert files(tmp_path / "out") == ["one.png", "sub/two.png"]
    shown = capsys.readouterr().out
    assert "million parameters, on cpu" in shown and "local converter" not in shown
    assert shown.splitlines()[-1].startswith("2 restored, 0 skipped, 0 failed in ")
    assert str(tmp_path / "out") in shown.splitlines()[-1]

    model, params = small_network()
    expected = images.to_uint8(dcpt_jax.restore(model, params, images.read_image(one)))
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "out/one.png"), expected)

    (tmp_path / "out/one.png").write_bytes(b"")  # as after a power failure
    assert run(*arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 restored, 1 skipped, 0 failed")
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "out/one.png"), expected)

    before = (tmp_path / "out/one.png").stat().st_mtime_ns
    assert run(*arguments) == 0
    shown = capsys.readouterr().out
    assert f"skipped (exists; see --overwrite): {tmp_path / 'out/one.png'}" in shown
    assert shown.splitlines()[-1].startswith("0 restored, 2 skipped, 0 failed in ")
    assert (tmp_path / "out/one.png").stat().st_mtime_ns == before

    assert run(*arguments, "--overwrite") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 restored, 0 skipped")
    assert (tmp_path / "out/one.png").stat().st_mtime_ns > before


def test_without_weights_the_bundled_network_restores(
    tmp_path, weights_folder, monkeypatch, capsys
):
    source = put(tmp_path / "a.png")
    monkeypatch.setattr(folders, "BUNDLED", tmp_path / "nowhere")
    assert run(source, "--output", tmp_path / "out") == 2
    assert "this installation has no bundled network" in capsys.readouterr().err
    monkeypatch.setattr(folders, "BUNDLED", weights_folder)
    assert run(source, "--output", tmp_path / "out") == 0
    assert "bundled with dcpt_jax (--weights selects another)" in capsys.readouterr().out
    model, params = dcpt_jax.load()
    expected = images.to_uint8(dcpt_jax.restore(model, params, images.read_image(source)))
    np.testing.assert_array_equal(images.read_pixels(tmp_path / "out/a.png"), expected)


@pytest.mark.parametrize("tile", [None, 16])
def test_the_command_and_the_function_give_the_same_pixels(tmp_path, weights_folder, tile):
    source = put(tmp_path / "a.png")
    options = () if tile is None else ("--tile", tile)
    assert run(source, "--output", tmp_path / "out", "--weights", weights_folder, *options) == 0
    model, params = dcpt_jax.load(weights_folder)
    restored = dcpt_jax.restore(model, params, images.read_image(source), tile=tile)
    written = cv2.imread(str(tmp_path / "out/a.png"))[..., ::-1]
    np.testing.assert_array_equal(written, np.rint(restored * 255).astype(np.uint8))


def test_the_verdict_is_on_the_line_of_the_photo(tmp_path, capsys):
    model, params = small_network()
    classifier = dcpt_jax.create_classifier(model.feature_dims, num_classes=2, num_blocks=1)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), parameter_shapes(classifier))
    ones["head"] = {"kernel": ones["head"]["kernel"], "bias": np.array([0.0, 1.0])}
    both = {"network": params, "classifier": jax.tree.map(np.float32, ones)}
    description = weights.describe(
        model, classifier, labels=Labels(("rain", "noise")), crop_size=16
    )
    folder = weights.save_weights(tmp_path / "w", both, description)
    source = put(tmp_path / "a.png")
    assert run(source, "--output", tmp_path / "out", "--weights", folder) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("restored: "))
    (seen, *_) = dcpt_jax.inspect(images.read_image(source), folder)
    assert seen == "noise"
    assert line.endswith(f" s, classified as {seen}")


def test_a_bad_file_is_named_and_the_others_go_on(tmp_path, identity, capsys):
    put(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("no image")
    put(tmp_path / "in/c.png")
    missing = tmp_path / "missing.png"
    status = run(tmp_path / "in", missing, "--output", tmp_path / "out", "--weights", tmp_path)
    assert status == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1].startswith("2 restored, 0 skipped, 2 failed in ")
    assert f"failed: {tmp_path / 'in/b.png'}: " in shown.err
    assert f"failed: {missing}: no such file or folder" in shown.err
    assert files(tmp_path / "out") == ["a.png", "c.png"]


def test_on_a_terminal_a_bar_takes_the_place_of_the_lines(tmp_path, identity, monkeypatch, capsys):
    put(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("no image")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", tmp_path) == 1
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert f"failed: {tmp_path / 'in/b.png'}: " in shown.err
    assert [line.split(" in ")[0] for line in shown.out.splitlines()] == [
        "1 restored, 0 skipped, 1 failed"
    ]


def test_a_network_that_gives_no_numbers_fails_the_file(tmp_path, monkeypatch, capsys):
    restores_by(monkeypatch, lambda image: np.full_like(image, np.nan))
    source = put(tmp_path / "a.png")
    assert run(source, "--output", tmp_path / "out", "--weights", tmp_path) == 1
    assert f"failed: {source}: " in capsys.readouterr().err
    assert files(tmp_path / "out") == []


def test_an_interruption_leaves_finished_files_and_no_partial_one(
    tmp_path, identity, monkeypatch, capsys
):
    put(tmp_path / "in/a.png")
    put(tmp_path / "in/b.png")
    replace = os.replace

    def interrupted_at_b(source, target):
        if Path(target).name == "b.png":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted_at_b)
    status = run(tmp_path / "in", "--output", tmp_path / "out", "--weights", tmp_path)
    assert status == 130
    assert files(tmp_path / "out") == ["a.png"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("interrupted: 1 restored, 0 skipped, 0 failed in ")


@pytest.mark.slow
def test_sigint_ends_the_process_without_a_partial_file(tmp_path, weights_folder):
    for i in range(200):
        put(tmp_path / f"in/{i:03}.png", seed=i)
    out = tmp_path / "out"
    arguments = [tmp_path / "in", "--output", out, "--weights", weights_folder, "--ensemble"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dcpt_jax.restore", *arguments], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    finished = files(out)
    assert 0 < len(finished) < 200
    assert shown.splitlines()[-1].startswith(f"interrupted: {len(finished)} restored")
    for name in finished:
        assert images.read_pixels(out / name).shape == (*SIZE, 3)


# Names


def test_results_beside_their_photos_are_renamed_and_not_restored_again(tmp_path, identity, capsys):
    source = put(tmp_path / "x.png")
    put(tmp_path / "y.jpg", seed=1)
    before = source.read_bytes()
    for run_number in range(2):
        assert run(tmp_path, "--output", tmp_path, "--weights", tmp_path) == 0
        expected = ["x.png", "x_restored.png", "y.jpg", "y_restored.png"]
        assert files(tmp_path) == expected
        assert source.read_bytes() == before
        count = "2 restored, 0 skipped" if run_number == 0 else "0 restored, 2 skipped"
        assert capsys.readouterr().out.splitlines()[-1].startswith(count)


@pytest.mark.parametrize("form", command.FORMATS)
def test_a_second_run_over_its_own_results_finds_nothing_new(tmp_path, identity, form):
    for name in ("a/x.jpg", "a/x.png", "a/y.png", "b/x.png", "b/deep/z.webp"):
        put(tmp_path / name)
    originals = files(tmp_path)
    for output in ("a", ".", "b/deep", "a/new"):
        place = tmp_path / output
        inputs = (tmp_path / "a", tmp_path / "b")
        arguments = (*inputs, "--output", place, "--weights", tmp_path, "--format", form)
        contents = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
        assert run(*arguments) == 0
        once = files(tmp_path)
        assert len(once) > len(contents)
        assert run(*arguments) == 0
        assert files(tmp_path) == once
        for name, content in contents.items():
            assert (tmp_path / name).read_bytes() == content
        for name in set(once) - set(originals):
            (tmp_path / name).unlink()


def test_a_mark_alone_does_not_make_a_photo_a_result(tmp_path):
    put(tmp_path / "in/old_restored.png")
    assert targets([tmp_path / "in"], tmp_path / "out") == ["old_restored.png"]
    assert targets([tmp_path / "in"], tmp_path / "in") == ["old_restored_restored.png"]


def test_a_single_photo_can_go_to_a_file(tmp_path, identity, capsys):
    one = str(put(tmp_path / "one.png"))
    single = tmp_path / "new" / "single.jpg"
    assert main([one, "--output", str(single)]) == 0
    assert single.is_file() and "becomes PNG" not in capsys.readouterr().out
    assert main([one, "--output", str(single)]) == 0
    assert "skipped (exists; see --overwrite)" in capsys.readouterr().out
    for arguments, message in (
        ([one, "--output", one], "is the input itself"),
        ([one, "--output", str(tmp_path / "a.jpg"), "--format", "png"], "is not a png file"),
        (
            [one, "--output", str(tmp_path / "a.HEIC")],
            ".heic files cannot be written; name a folder",
        ),
        ([one, one, "--output", str(tmp_path / "a.png")], "is a file name, but the inputs are"),
        (
            [str(tmp_path), "--output", str(tmp_path / "a.png")],
            "is a file name, but the inputs are",
        ),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_results_that_are_removed_meanwhile_are_failures(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def remove(image):
        shutil.rmtree(out)  # with what was written before
        return image

    restores_by(monkeypatch, remove)
    inputs = [str(put(tmp_path / name)) for name in ("a.png", "b.png")]
    assert main([*inputs, "--output", str(out)]) == 1
    shown = capsys.readouterr()
    assert f"failed: {out / 'a.png'}: was deleted while" in shown.err
    assert "1 restored, 0 skipped, 1 failed" in shown.out


def test_the_home_folder_is_expanded_behind_the_equals_sign(tmp_path, identity, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "one.png")
    assert main(["~/one.png", "--output=~/out"]) == 0
    assert (tmp_path / "out" / "one.png").is_file()


def test_photos_with_the_same_name_get_different_ones(tmp_path):
    x_png, x_jpg = put(tmp_path / "a/x.png"), put(tmp_path / "a/x.jpg")
    other = put(tmp_path / "b/x.png")
    out = tmp_path / "out"
    assert targets([x_png, x_jpg], out) == ["x_png.png", "x_jpg.png"]
    assert targets([x_png, other], out) == ["x_a.png", "x_b.png"]
    assert targets([x_png, x_jpg], out, "same") == ["x.png", "x.jpg"]
    same_parent = put(tmp_path / "c/a/x.png")
    names = targets([x_png, same_parent], out)
    assert len(set(names)) == 2
    assert all(name.startswith("x_") for name in names)
    assert targets([same_parent, x_png], out) == names[::-1]


def test_a_chosen_name_never_falls_on_a_third_photo(tmp_path):
    sources = [put(tmp_path / name) for name in ("x.png", "x.jpg", "x_png.png", "X.bmp")]
    names = targets(sources, tmp_path / "out")
    assert len({name.lower() for name in names}) == 4
    inside = plan(sources, tmp_path, "png")
    assert not {job.target for job in inside.jobs} & set(sources)
    assert len(inside.jobs) == 4


@pytest.mark.parametrize("stem", [b"x" * 247, "é".encode() * 124, b"\xe9" * 248])
def test_names_as_long_as_they_can_be(tmp_path, identity, capsys, stem):
    folder = os.fsencode(tmp_path)
    for end in (b"a.tiff", b"b.tiff"):
        images.write_image(tmp_path / "a.tiff", np.zeros((2, 2, 3)))
        os.rename(tmp_path / "a.tiff", os.path.join(folder, stem + end))
    put(tmp_path / "short.png")
    for outcome in ("3 restored", "0 restored, 3 skipped"):
        assert run(tmp_path, "--output", tmp_path) == 0
        assert outcome in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 6


def test_an_error_without_a_text_is_named(tmp_path, monkeypatch, capsys):
    def fails(image):
        raise MemoryError

    restores_by(monkeypatch, fails)
    source = put(tmp_path / "a.png")
    assert run(source, "--output", tmp_path / "out") == 1
    assert f"failed: {source}: MemoryError\n" in capsys.readouterr().err


def test_a_full_disk_ends_the_command(tmp_path, identity, monkeypatch, capsys):
    def fails(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(command.photo_files, "write_photo", fails)
    for name in "abc":
        put(tmp_path / f"in/{name}.png")
    assert run(tmp_path / "in", "--output", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert "failed: the disk is full: 2 more are not tried" in shown.err
    assert "0 restored, 0 skipped, 1 failed" in shown.out


def test_a_pipe_or_device_is_named(tmp_path, capsys):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "/dev/null"):
        assert run(path, "--output", tmp_path / "out") == 2
        assert f"{path}: a pipe, socket or device, not an image" in capsys.readouterr().err


def test_a_target_that_is_an_input_by_another_name_is_avoided(tmp_path):
    source = put(tmp_path / "in/x.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x.png").symlink_to(source)
    assert targets([source], tmp_path / "out") == ["x_restored.png"]


def test_an_input_named_twice_is_restored_once(tmp_path):
    source = put(tmp_path / "in/x.png")
    assert targets([source, tmp_path / "in", source], tmp_path / "out") == ["x.png"]


def test_results_inside_an_input_folder_are_passed_by(tmp_path, identity, capsys):
    put(tmp_path / "x.png")
    for _ in range(2):
        assert run(tmp_path, "--output", tmp_path / "out", "--weights", tmp_path) == 0
    assert files(tmp_path) == ["out/x.png", "x.png"]
    assert f"ignored 1 earlier results: {tmp_path / 'out/x.png'}" in capsys.readouterr().out


def test_odd_names_are_kept(tmp_path, identity, monkeypatch):
    names = ["name with spaces.png", "ünïcode_фото_写真.png", "-dash.png", "two.dots.in.name.png"]
    for name in names:
        put(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path / "in")
    assert run("--output", "../out", "--weights", ".", "--", *names) == 0
    assert files(tmp_path / "out") == sorted(names)


def test_a_name_that_is_no_text_is_restored_and_shown(tmp_path, identity, capsys):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        put(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes text only")
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", tmp_path) == 0
    assert files(tmp_path / "out") == [name]


# Formats


@pytest.mark.parametrize(
    ("form", "name", "expected"),
    [
        ("png", "x.JPG", "x.png"),
        ("jpg", "x.png", "x.jpg"),
        ("same", "UPPER.PNG", "UPPER.PNG"),
        ("same", "x.jpeg", "x.jpeg"),
        ("same", "x.webp", "x.webp"),
        ("same", "x.gif", "x.png"),
        ("same", "x", "x.png"),
        ("auto", "x.TIF", "x.tif"),
        ("auto", "x.bmp", "x.bmp"),
        ("auto", "x.jpg", "x.png"),
        ("auto", "x.gif", "x.png"),
    ],
)
def test_the_format_decides_the_suffix(tmp_path, form, name, expected):
    assert targets([put(tmp_path / "in" / name)], tmp_path / "out", form) == [expected]


def test_a_photo_whose_format_would_lose_becomes_png_with_a_word(tmp_path, identity, capsys):
    sources = [put(tmp_path / name) for name in ("a.jpg", "b.jpeg", "c.webp", "d.tif")]
    out = tmp_path / "out"
    assert run(*sources, "--output", out, "--weights", tmp_path) == 0
    assert files(out) == ["a.png", "b.png", "c.webp", "d.tif"]
    message = "2 photos become PNG (.jpeg, .jpg), which is lossless; --format same keeps the format"
    assert message in capsys.readouterr().out
    for form in ("png", "same"):
        assert run(sources[0], "--output", out, "--weights", tmp_path, "--format", form) == 0
        assert "PNG" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("form", "name"), [("auto", "deep.tif"), ("png", "deep.png"), ("jpg", "deep.jpg")]
)
def test_sixteen_bits_are_kept_where_the_format_can(tmp_path, identity, form, name, capsys):
    pixels = np.random.default_rng(0).integers(0, 65536, (*SIZE, 3)).astype(np.uint16)
    source = tmp_path / "deep.tif"
    source.write_bytes(cv2.imencode(".tif", pixels)[1].tobytes())
    out = tmp_path / "out"
    assert run(source, "--output", out, "--weights", tmp_path, "--format", form) == 0
    (result,) = out.iterdir()
    assert result.name == name
    restored = images.read_pixels(result)
    if form == "jpg":
        assert restored.dtype == np.uint8
        assert "; reduced to 8 bits, as .jpg does not support 16" in capsys.readouterr().out
    else:
        np.testing.assert_array_equal(restored, pixels[..., ::-1])


def test_pictures_that_are_not_read_are_counted(tmp_path, identity, capsys):
    put(tmp_path / "in/a.png")
    for name in ("b.dng", "c.exr", "@eaDir/d.jpg"):
        put(tmp_path / "in" / name)
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", tmp_path) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "2 files not read: .dng (1), .exr (1)" in shown
    assert "1 image skipped in @eaDir/" in shown
    assert files(tmp_path / "out") == ["a.png"]


# Colour, metadata, alpha, strength


def restored_line(capsys):
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("restored: "))
    return line


def phone_photo(path):
    """A JPEG as phones make them: Display P3, stored on its side, with a place."""
    exif = Image.Exif()
    exif[274] = 6
    exif.get_ifd(0x8825)[1] = "N"
    pixels = images.to_uint8(photo(*SIZE))
    Image.fromarray(pixels).save(path, quality=95, exif=exif, icc_profile=rgb_profile(gamma=None))
    return path


@pytest.mark.parametrize("form", ["auto", "same"])
def test_a_phone_photo_keeps_profile_and_metadata_and_stands_upright(
    tmp_path, identity, form, capsys
):
    source = phone_photo(tmp_path / "a.jpg")
    out = tmp_path / "out"
    assert run(source, "--output", out, "--weights", tmp_path, "--format", form) == 0
    assert restored_line(capsys).endswith(" s")
    (result,) = out.iterdir()
    with Image.open(result) as image:
        assert image.size == SIZE
        assert image.info["icc_profile"] == rgb_profile(gamma=None)
        assert image.getexif()[274] == 1
        assert image.getexif().get_ifd(0x8825)[1] == "N"
    if form == "auto":
        expected = images.read_pixels(source, colour="as_is")
        np.testing.assert_array_equal(images.read_pixels(result, colour="as_is"), expected)


def test_metadata_none_leaves_the_place_out_and_keeps_the_colours(tmp_path, identity, capsys):
    source = phone_photo(tmp_path / "a.jpg")
    out = tmp_path / "out"
    assert run(source, "--output", out, "--weights", tmp_path, "--metadata", "none") == 0
    assert restored_line(capsys).endswith(" s; EXIF dropped")
    with Image.open(out / "a.png") as image:
        assert not image.getexif()
        assert image.info["icc_profile"] == rgb_profile(gamma=None)
        assert image.size == SIZE


@pytest.mark.parametrize(
    ("alpha", "form", "mode", "said"),
    [
        ("keep", "auto", "RGBA", ""),
        ("keep", "jpg", "RGB", "; alpha dropped, as .jpg has none"),
        ("drop", "auto", "RGB", "; alpha dropped"),
        ("white", "auto", "RGB", "; blended over white"),
    ],
)
def test_alpha_is_kept_dropped_or_laid_on_white(
    tmp_path, identity, capsys, alpha, form, mode, said
):
    pixels = np.full((*SIZE, 4), 100, np.uint8)
    pixels[..., 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = ("--alpha", alpha, "--format", form)
    out = tmp_path / "out"
    assert run(tmp_path / "a.png", "--output", out, "--weights", tmp_path, *options) == 0
    assert restored_line(capsys).endswith(f" s{said}")
    (result,) = out.iterdir()
    with Image.open(result) as image:
        assert image.mode == mode
        colour = 255 if alpha == "white" else 100
        assert abs(np.asarray(image)[..., :3].astype(int) - colour).max() <= 1


@pytest.mark.parametrize(("strength", "expected"), [(0, 40), (0.25, 90), (1, 240)])
def test_strength_blends_photo_and_result(tmp_path, monkeypatch, strength, expected):
    restores_by(monkeypatch, lambda image: np.full_like(image, 240 / 255))
    images.write_image(tmp_path / "a.png", np.full((*SIZE, 3), 40 / 255))
    out = tmp_path / "out"
    options = ("--output", out, "--weights", tmp_path, "--strength", strength)
    assert run(tmp_path / "a.png", *options) == 0
    assert (images.read_pixels(out / "a.png") == expected).all()


def test_max_pixels_is_an_option(tmp_path, identity, capsys):
    source = put(tmp_path / "a.png")
    arguments = (source, "--output", tmp_path / "out", "--weights", tmp_path, "--max-pixels")
    assert run(*arguments, 24 * 32 - 1) == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert run(*arguments, 24 * 32) == 0


# Wrong use


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--weights": "nothing"}, "--weights nothing: no such folder"),
        ({"--weights": "empty"}, "cannot use --weights empty: no weights in"),
        ({"--weights": "damaged"}, "cannot use --weights damaged: .*is not a valid description"),
        ({"--output": "photo.png"}, "--output photo.png is the input itself"),
        ({"input": "empty"}, "failed: empty: no images in this folder .*\n.*contain no image"),
        ({"input": "nothing"}, "failed: nothing: no such file or folder\n.*contain no image"),
    ],
)
def test_wrong_paths_end_with_status_2(tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "photo.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/model.json").write_text("{}")
    values = {"input": "photo.png", "--output": "out", "--weights": "empty"} | change
    status = run(values.pop("input"), *(part for pair in values.items() for part in pair))
    assert status == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png", "--weights", "w"], "--output"),
        (["--output", "o", "--weights", "w"], "INPUT"),
        (
            ["x.png", "--output", "o", "--weights", "w", "--tile", "0"],
            "'0' is not an integer from 1",
        ),
        (["x.png", "--output", "o", "--weights", "w", "--tile", "1.5"], "'1.5' is not an integer"),
        (["x.png", "--output", "o", "--weights", "w", "--format", "bmp"], "png"),
        (
            ["x.png", "--output", "o", "--weights", "w", "--strength", "1.1"],
            "not a number from 0 to",
        ),
        (
            ["x.png", "--output", "o", "--weights", "w", "--strength", "nan"],
            "not a number from 0 to",
        ),
        (["x.png", "--output", "o", "--weights", "w", "--alpha", "black"], "white"),
        (["x.png", "--output", "o", "--weights", "w", "--metadata", "gps"], "none"),
        (
            ["x.png", "--output", "o", "--weights", "w", "--max-pixels", "0"],
            "not an integer from 1",
        ),
        (["x.png", "--output", "o", "--weights", "w", "--tlc", "on"], "to 10^12, nor auto"),
        (["x.png", "--output", "o", "--weights", "w", "--tlc", "0"], "nor auto"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_help_fits_a_terminal_and_names_every_option(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    options = ("--output", "--weights", "--tile", "--ensemble", "--format", "--overwrite", "--tlc")
    options += ("--alpha", "--metadata", "--strength", "--max-pixels", "GPS")
    assert all(option in shown for option in options)
    assert max(len(line) for line in shown.splitlines()) <= 100


# Local converter


def network(folder, tlc):
    model, _, _, remarks = command.load_network(folder, tlc)
    return model, "; ".join(remarks)


def changed(weights_folder, tmp_path, **entries):
    """Copy of the weights with another description."""
    folder = tmp_path / "changed"
    shutil.copytree(weights_folder, folder)
    description = read_description(folder / "model.json")
    changes = {"checksums": None, **entries}
    write_description(folder / "model.json", dataclasses.replace(description, **changes))
    return folder


def test_the_local_converter_is_off_unless_asked_for(weights_folder):
    model, remarks = network(weights_folder, None)
    assert model.tlc_size is None and remarks == ""
    assert dcpt_jax.load(weights_folder)[0] == model
    assert parser().parse_args(["x", "--output", "o", "--weights", "w"]).tlc is None


def test_the_local_converter_takes_the_size_of_the_training_crop(weights_folder, tmp_path):
    model, remarks = network(weights_folder, "auto")
    assert tuple(model.tlc_size) == (16, 16)
    assert remarks == "local converter for training crops of 16 pixels"
    # The network takes multiples of its size_multiple only.
    model, _ = network(changed(weights_folder, tmp_path, crop_size=15), "auto")
    assert tuple(model.tlc_size) == (16, 16)


def test_without_a_crop_size_the_local_converter_needs_a_size(weights_folder, tmp_path):
    folder = changed(weights_folder, tmp_path, crop_size=None)
    with pytest.raises(command.UsageError, match="has no crop_size; set --tlc SIZE"):
        network(folder, "auto")
    model, remarks = network(folder, "31")  # rounded up to what the network takes
    assert tuple(model.tlc_size) == (32, 32)
    assert "for training crops of 32 pixels" in remarks


def test_a_network_without_a_local_converter_refuses_it(tmp_path):
    model = dcpt_jax.create_model("restormer", **TINY_BACKBONES["restormer"])
    description = weights.describe(model)
    folder = weights.save_weights(tmp_path / "w", {"network": {"x": np.ones(1)}}, description)
    assert network(folder, None)[0] == model
    for tlc in ("auto", "128"):
        with pytest.raises(command.UsageError, match="restormer has no local converter"):
            network(folder, tlc)


def test_weights_of_a_pre_training_cause_a_remark(weights_folder, tmp_path):
    _, remarks = network(changed(weights_folder, tmp_path, mode="pretrain"), None)
    assert "were not trained to restore" in remarks


def test_the_local_converter_changes_nothing_for_images_within_its_window(weights_folder):
    local, params, *_ = command.load_network(weights_folder, "auto")
    plain, params = command.load_network(weights_folder, None)[0], params["network"]
    small, large = photo(24, 24), photo(*SIZE)
    np.testing.assert_allclose(
        dcpt_jax.restore(local, params, small), dcpt_jax.restore(plain, params, small), atol=1e-5
    )
    difference = dcpt_jax.restore(local, params, large) - dcpt_jax.restore(plain, params, large)
    assert np.abs(difference).max() > 1e-3


# Awkward files


@pytest.mark.slow
def test_awkward_files(shared, weights_folder, tmp_path, capsys):
    folder = shared / "awkward"
    out = tmp_path / "out"
    assert run(folder, "--output", out, "--weights", weights_folder, "--tile", 512) == 1
    shown = capsys.readouterr()
    bad = ["truncated.jpg", "truncated.png", "corrupt_crc.png", "zero_byte.png", "text_file.png"]
    bad += ["bomb_header_60000x60000.png", "bomb_real_12000x12000.png"]
    for name in bad:
        assert f"failed: {folder / name}: " in shown.err
    assert len(shown.err.strip().splitlines()) == len(bad)
    for name, size in (
        ("one_pixel", (1, 1)),
        ("wide_5000x3", (3, 5000)),
        ("tall_3x5000", (5000, 3)),
        ("odd_127x91", (91, 127)),
        ("exif_orientation_6", (192, 128)),
        ("ünïcode_фото_写真", (128, 192)),
        ("two.dots.in.name", (128, 192)),
        ("-starts-with-dash", (128, 192)),
        ("jpeg_named", (128, 192)),
    ):
        assert images.read_pixels(out / f"{name}.png").shape == (*size, 3)
    # Photos whose names differ in suffix or case only have results of their own.
    assert {"ok_plain_png.png", "ok_plain_jpg.png", "UPPER_png.png", "UPPER_jpeg.png"} <= set(
        files(out)
    )
    assert len(files(out)) == len(listing.list_images(folder)) - len(bad)
