"""The check of a run's data: table, problems and exit status."""

import os

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data import check, classes, sources
from dcpt_jax.data.tasks import Task
from tests.conftest import ROOT


def write(root, names, shape=(20, 30)):
    for name in names.split():
        images.write_image(root / name, np.full((*shape, 3), 0.5))


def spoil(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


TASKS = (
    Task("low_light", "low_light", datasets=("lol",), samples=(8, 8)),
    Task("haze", "haze", datasets=("reside_ots",)),
)


@pytest.fixture
def data(tmp_path):
    for i in range(4):
        write(tmp_path, f"lol/our485/low/{i}.png lol/our485/high/{i}.png", (20 + i, 30 + i))
    write(tmp_path, "photos/a.png", (8, 40))
    return tmp_path


def checked(data, decode=False, **options):
    options = {"root": str(data / "photos"), "datasets": str(data), **options}
    return check.check(classes.try_open_classes(TASKS, **options), decode=decode)


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_counts_and_sizes(data):
    found = checked(data)
    (low_light,), (haze,) = (one.parts for one in found)
    assert (low_light.total, low_light.problems) == (4, ())
    assert low_light.sizes.tolist() == [[20, 30], [21, 31], [22, 32], [23, 33]]
    assert (low_light.too_small(21), haze.too_small(9)) == (1, 1)
    assert [one.share for one in found] == [0.5, 0.5]  # 4 * 2 and 1 * 8
    text = check.report(found, crop=21, by="headers")
    header, first, second = rows(text)[:3]
    assert header[:4] == ["class", "share", "found", "unreadable"]
    sizes = ["30x20", "31x21", "33x23"]
    place = ["pairs", "in", f"{data}/lol/our485/low"]
    assert first == ["low_light", "50.0%", "4", "-", "-", "-", "1", *sizes, *place]
    assert second[:2] == ["haze", "50.0%"] and "stand-in, synthetic on" in text
    assert check.is_bad(found)  # RESIDE is missing
    assert "haze: RESIDE OTS is not in" in text
    assert not check.is_bad(checked(data, datasets="")[1:])  # not asked for


def test_everything_that_is_wrong_is_counted_and_named(data):
    write(data, "lol/our485/low/odd.png lol/our485/high/more.png")
    (data / "lol/our485/low/1.png").write_bytes(b"")
    write(data, "lol/our485/high/2.png", (9, 9))
    spoil(data / "lol/our485/high/3.png")
    found = checked(data)
    assert found[0].parts[0].kinds == {"unreadable": 1, "unpaired": 1, "different size": 1}
    assert found[0].parts[0].unused == 1
    assert found[0].parts[0].total == 5
    decoded = checked(data, decode=True)
    assert decoded[0].parts[0].kinds == {"unreadable": 2, "unpaired": 1, "different size": 1}
    text = check.report(decoded, crop=16, by="decoding")
    for name in ("low/odd.png: no clean", "1.png: the file is empty", "2.png is 32x22", "checksum"):
        assert name in text
    assert "clean files without a degraded one: 1" in text


def test_swapped_pairs_are_reported(data):
    sources_ = {"low_light": f"pairs:{data}/lol/our485/high,{data}/lol/our485/low"}
    text = check.report(checked(data, sources=sources_), crop=16, by="headers")
    assert "pairs look swapped by their names" in text


def test_large_sources_are_checked_here(data, monkeypatch):
    monkeypatch.setattr(sources, "CHECK_LIMIT", 2)
    (data / "lol/our485/low/1.png").write_bytes(b"")
    found = checked(data)
    assert found[0].parts[0].kinds["unreadable"] == 1
    assert len(found[0].parts[0].sizes) == 3


def test_every_bad_file_is_named(data):
    for i in range(25):
        write(data, f"lol/our485/low/odd{i}.png")
    text = check.report(checked(data), crop=16, by="headers")
    assert text.count("no clean file") == 25 and "more in" not in text


def test_inaccessible_files_are_bad(data):
    (data / "photos/sub").mkdir()
    (data / "photos/sub/loop.png").symlink_to("loop.png")
    write(data, "photos/sub/b.png")
    found = checked(data, datasets="")
    part = found[1].parts[0]
    assert (part.total, len(part.sizes), part.kinds["unreadable"]) == (3, 2, 1)
    assert check.is_bad(found)
    assert "sub/loop.png: cannot be accessed" in check.report(found, crop=16, by="headers")
    with pytest.raises(images.ImageError, match=r"loop\.png: cannot .*on_bad_file=skip"):
        classes.open_classes(TASKS, root=str(data / "photos"), on_bad_file="refuse")


def test_pictures_that_are_not_read_are_counted(data):
    (data / "photos/a.dng").write_bytes(b"")
    (data / "photos/b.exr").write_bytes(b"")
    tasks = (Task("a", "haze"), Task("b", "noise"))
    found = check.check(classes.try_open_classes(tasks, root=str(data / "photos")))
    text = check.report(found, crop=16, by="headers")
    assert text.count(f"{data / 'photos'}: 2 files not read: .dng (1), .exr (1)") == 1
    assert not check.is_bad(found)
    assert "; 2 files not read: " in found[0].opened.training_class.source.report.summary()


def test_shared_sources_are_walked_once(data):
    tasks = (Task("a", "haze"), Task("b", "noise"))
    opened = classes.try_open_classes(tasks, root=str(data / "photos"))
    seen = []
    found = check.check(opened, progress=lambda: seen.append(1))
    assert len(seen) == check.count_items(opened) == 1
    assert found[0].parts == found[1].parts


def test_a_class_that_cannot_be_opened_is_reported_with_the_others(data):
    found = checked(data, sources={"low_light": "photos:/gone"})
    text = check.report(found, crop=16, by="headers")
    assert "cannot be opened, see below" in text and "no such folder: /gone" in text
    assert check.is_bad(found) and found[1].parts


def run(*flags):
    return check.main(["check", f"--config={ROOT}/configs/restore.py:nafnet,5d", *flags])


def test_command(data, capsys):
    flags = [f"--config.data.root={data}/photos"]
    assert run(*flags) == 0
    assert "Nothing is missing, and nothing is bad." in capsys.readouterr().out
    source = f"--config.data.sources.low_light=lol:{data}/lol"
    assert run(*flags, source) == 0
    out = capsys.readouterr().out
    assert [row[3] for row in rows(out) if row[:1] == ["low_light"]] == ["-"]
    spoil(data / "lol/our485/high/3.png")
    assert run(*flags, source) == 0
    assert run(*flags, source, "--decode") == 1
    assert "checksum" in capsys.readouterr().out
    assert run(*flags, f"--config.data.datasets={data}") == 1
    mixture = f"--config.data.sources.low_light+haze=lol:{data}/lol"
    assert run(*flags, "--config.tasks=low_light+haze", mixture, "--split=held_out") == 1
    assert "LOL (v1) has no held-out data" in capsys.readouterr().out
    assert run(*flags, "--config.tasks=low_light+haze", mixture) == 0
    assert "low_light+haze" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.data.rot=x"], "rot"),
        (["extra"], "unexpected argument 'extra'"),
        (["--config.tasks=fog"], "fog"),
        (["--split=test"], "split"),
        (["--config.data.sources.rain=pear:x"], "config.data.sources.rain"),
        (["--config.repeats.rain=-3"], "config.repeats.rain is -3; it must be 0 or larger"),
        (["--config.data.crop_size=0"], "config.data.crop_size"),
        (["--config.data.stand_ins=False"], "rain: its data are rain200h, rain200l, but"),
        (["--config.data.datasets=/gone"], "config.data.datasets: no such folder: /gone"),
    ],
)
def test_wrong_use(flags, message, capsys):
    status = run(*flags)
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.err


def test_one_error_of_all_classes_is_told_once(tmp_path, capsys):
    assert run(f"--config.data.root={tmp_path}/gone", "--config.tasks=rain,haze") == 1
    out = capsys.readouterr().out
    assert "rain, haze: no such folder" in out and out.count("no such folder") == 1


def test_names_that_are_no_text_are_shown(data, capsys):
    (data / "photos" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    assert run(f"--config.data.root={data}/photos") == 1
    assert "photos/\\udcff.png: the file is empty" in capsys.readouterr().out


def test_command_without_config(capsys):
    assert check.main(["check"]) == 2
    assert "--config is missing" in capsys.readouterr().err
    assert check.main(["check", "--help"]) == 0
    assert "--decode" in capsys.readouterr().out


def test_unknown_preset_is_explained_without_a_traceback(capsys):
    assert check.main(["check", f"--config={ROOT}/configs/restore.py:fog"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: unknown preset 'fog' in 'fog'; backbones: nafnet")
    assert "Traceback" not in text


def test_evaluation_checks_test_data(data, capsys):
    write(data, "lol/eval15/low/x.png lol/eval15/high/x.png")
    flags = ["check", f"--config={ROOT}/configs/evaluate.py:low_light"]
    assert check.main([*flags, f"--config.data.datasets={data}"]) == 0
    assert "eval15/low" in capsys.readouterr().out
    assert check.main(["check", f"--config={ROOT}/configs/evaluate.py"]) == 2
    assert "config.tasks is empty" in capsys.readouterr().err


def test_module_runs_the_command():
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "dcpt_jax.data.check", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--config=" in done.stdout and not done.stderr


# --- awkward and hostile files -----------------------------------------------------------------


def test_awkward_files(shared):
    """Files are read or refused as the README of the folder specifies."""
    opened = classes.try_open_classes((Task("haze", "haze"),), root=str(shared / "awkward"))
    source = opened[0].training_class.source
    (part,) = check.check(opened, decode=True)[0].parts
    refused = {message.split(": ")[0].rsplit("/", 1)[1] for message in part.problems}
    assert refused == {
        "bomb_header_60000x60000.png",
        "bomb_real_12000x12000.png",
        "corrupt_crc.png",
        "text_file.png",
        "truncated.jpg",
        "truncated.png",
        "zero_byte.png",
    }
    assert part.total == len(part.sizes) + len(refused)
    for name in (".hidden.png", "notes.txt", "no_extension", "a_folder.png"):
        assert not any(name == path.name for path in source.paths)
    names = {path.name for path in source.paths}
    assert {"UPPER.JPEG", "-starts-with-dash.png", "two.dots.in.name.png"} <= names
    for index in range(len(source)):
        pixels = source[index]
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size


def test_bombs_do_not_take_the_memory(tmp_path):
    """Sizes in headers are checked before memory for the pixels is allocated."""
    import struct
    import subprocess
    import sys
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    png = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    )
    png += chunk(b"IDAT", zlib.compress(bytes(60_001 * 200))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)  # 1.2 GB
    screen = struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x08\x01\x00\x00;"
    (tmp_path / "bomb.gif").write_bytes(b"GIF89a" + screen + frame)
    size = (50_000, 50_000, 1 | 24 << 16)  # the last are planes and bits
    header = struct.pack("<IHHIIIIIIIIII", 0, 0, 0, 54, 40, *size, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(b"BM" + header)
    write(tmp_path, "good.png")
    code = f"""
import resource
from dcpt_jax.data import photos
from dcpt_jax.images import listing
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
source = photos.PhotoSource(listing.images_in({str(tmp_path)!r}))
source[0]
print(len(source), len(source.report.skipped), peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    used, left_out, megabytes = map(float, done.stdout.split())
    assert (used, left_out) == (1, 3), done.stderr
    assert megabytes < 40
