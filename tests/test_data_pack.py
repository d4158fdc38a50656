"""`python -m dcpt_jax.data.pack`: cutting, writing, resuming, verifying."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data import pack as packing
from dcpt_jax.data import packed
from dcpt_jax.data.manifest import Options, read_manifest
from dcpt_jax.data.pack import PackError, corners, main, pack
from dcpt_jax.data.packed import PackedSource, verify
from dcpt_jax.data.photos import PhotoSource

COUNT = 9
SMALL = Options(size=64, stride=48, shard_megabytes=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Nine photos, two of which are smaller than a sub-image."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(COUNT):
        height, width = (50, 60) if i in (2, 5) else (220 + i, 300)
        pixels = np.random.default_rng(i).random((height, width, 3))
        images.write_image(folder / f"{i}.png", pixels)
    return folder


def source_of(folder):
    return PhotoSource(sorted(folder.iterdir()), cache=0)


def packed_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- where photos are cut ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [0]),
        (64, [0]),
        (65, [0, 1]),
        (112, [0, 48]),
        (113, [0, 24, 49]),
        (208, [0, 48, 96, 144]),
    ],
)
def test_corners(length, expected):
    assert corners(length, 64, 48) == expected


def test_corners_cover_all_and_never_leave_a_gap():
    for length in range(65, 400, 7):
        found = corners(length, 64, 48)
        assert found[0] == 0 and found[-1] == length - 64
        assert max(np.diff(found)) <= 48
        assert len(corners(length, 64, 64)) == -(-length // 64)  # no more than needed


def test_photos_are_covered_and_small_ones_whole(photos, tmp_path):
    manifest = pack(source_of(photos), tmp_path, options=SMALL)
    found = PackedSource(tmp_path)
    covered = {}
    for i in range(len(found)):
        record = found.record(i)
        h, w, _ = record.images[0].shape
        whole = covered.setdefault(record.name, images.read_pixels(photos / f"{record.name}.png"))
        part = whole[record.top : record.top + h, record.left : record.left + w]
        np.testing.assert_array_equal(record.images[0], part)
        if record.name in ("2", "5"):
            assert (h, w) == (50, 60)
        else:
            assert (h, w) == (64, 64)
    assert list(covered) == [str(i) for i in range(COUNT)]
    assert (
        len(found)
        == manifest.records
        == 2
        + sum(
            len(corners(220 + i, 64, 48)) * len(corners(300, 64, 48)) for i in (0, 1, 3, 4, 6, 7, 8)
        )
    )


# --- writing -------------------------------------------------------------------------------------


def test_files_are_the_same_each_time_and_for_any_number_of_threads(photos, tmp_path):
    for name, threads in (("a", 1), ("b", 1), ("c", 3)):
        pack(source_of(photos), tmp_path / name, options=SMALL, threads=threads)
    first = packed_files(tmp_path / "a")
    assert len(first) == 3 + 1
    assert first == packed_files(tmp_path / "b") == packed_files(tmp_path / "c")


def test_compression_loses_nothing(tmp_path):
    folder = tmp_path / "photos"
    y, x = np.mgrid[:250, :250]
    images.write_image(folder / "a.png", np.stack([x // 50, y // 9, x // 3], axis=-1) / 255)
    sizes = []
    for compression in ("none", "zstd"):
        target = tmp_path / compression
        options = Options(64, 48, compression)
        manifest = pack(source_of(folder), target, options=options)
        sizes.append(manifest.shards[0].bytes)
    assert sizes[1] < 0.5 * sizes[0]
    one, other = PackedSource(tmp_path / "none"), PackedSource(tmp_path / "zstd")
    for i in range(len(one)):
        np.testing.assert_array_equal(one[i], other[i])


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_an_interrupted_call_is_continued(photos, tmp_path, stop):
    pack(source_of(photos), tmp_path / "whole", options=SMALL)
    expected = packed_files(tmp_path / "whole")
    source, target, read = source_of(photos), tmp_path / "target", []

    class Interrupted(type(source)):
        def read(self, index):
            if index == stop:
                raise KeyboardInterrupt
            return super().read(index)

    interrupted = source_of(photos)
    interrupted.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        pack(interrupted, target, options=SMALL)
    assert not read_manifest(target).complete
    assert not list(target.glob(".*"))
    kept = {path.name: path.stat().st_mtime_ns for path in target.glob("part-*")}
    assert (len(kept) > 0) == (stop > 1)
    with pytest.raises(images.ImageError, match=f"is not finished: . of {COUNT} photos are packed"):
        PackedSource(target)
    (target / ".part-00003.array_record.partial").write_bytes(b"left by a killed process")
    monkey = pytest.MonkeyPatch()
    monkey.setattr(type(source), "read", lambda s, i: (read.append(i), s._decode(i))[1])
    pack(source, target, options=SMALL)
    monkey.undo()
    assert packed_files(target) == expected
    assert {name: (target / name).stat().st_mtime_ns for name in kept} == kept
    assert (min(read) > 0) == bool(kept)


def test_a_finished_folder_is_left_alone(photos, tmp_path):
    pack(source_of(photos), tmp_path, options=SMALL)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    done = []
    pack(source_of(photos), tmp_path, options=SMALL, progress=done.append)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    assert done == [COUNT]


def test_another_content_is_not_overwritten_unasked(photos, tmp_path):
    pack(source_of(photos), tmp_path, options=SMALL)
    before = packed_files(tmp_path)
    other = Options(size=32, stride=32)
    with pytest.raises(
        PackError, match=r"size is 64 in the folder, but 32 is requested.*--overwrite"
    ):
        pack(source_of(photos), tmp_path, options=other)
    fewer = PhotoSource(sorted(photos.iterdir())[1:])
    with pytest.raises(PackError, match="inputs is 9 in the folder, but 8 is requested"):
        pack(fewer, tmp_path, options=SMALL)
    assert packed_files(tmp_path) == before
    manifest = pack(fewer, tmp_path, options=other, overwrite=True)
    assert manifest.inputs == 8
    assert len(list(tmp_path.iterdir())) == len(manifest.shards) + 1
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(PackError, match="of another program"):
        pack(fewer, tmp_path, options=other)


def write_photo(path, value=0.5):
    images.write_image(path, np.full((20, 20, 3), value))


@pytest.mark.parametrize("change", ["photos", "time", "clean", "joined"])
def test_changed_content_of_the_same_names_is_reported(tmp_path, capsys, change):
    for name, value in (("a/x", 0.2), ("b/x", 0.4), ("c/x", 0.6)):
        write_photo(tmp_path / f"{name}.png", value)
        os.utime(tmp_path / f"{name}.png", (1, ord(name[0])))
    first, second = {
        "photos": ("{0}/a", "{0}/b"),
        "time": ("{0}/a", "{0}/a"),
        "clean": ("pairs:{0}/a,{0}/b", "pairs:{0}/a,{0}/c"),
        "joined": ("{0}/a {0}/b", "{0}/a {0}/c"),
    }[change]
    target = tmp_path / "packed"

    def run(sources):
        return main([*sources.format(tmp_path).split(), "--output", str(target)])

    assert run(first) == run(first) == 0
    before = packed_files(target)
    if change == "time":
        os.utime(tmp_path / "a/x.png", (1, 2))
    assert run(second) == 2
    assert "differ or have changed" in capsys.readouterr().err
    assert packed_files(target) == before


def test_the_same_photos_by_another_path_are_the_same(tmp_path, monkeypatch):
    for name in ("a/x", "b/x"):
        write_photo(tmp_path / f"photos/{name}.png")
    assert main([str(tmp_path / "photos"), "--output", str(tmp_path / "packed")]) == 0
    before = packed_files(tmp_path / "packed")
    for place, folder in ((tmp_path, "photos"), (tmp_path / "photos/a", "..")):
        monkeypatch.chdir(place)
        assert main([folder, "--output", str(tmp_path / "packed")]) == 0
    assert packed_files(tmp_path / "packed") == before


def test_a_folder_with_separators_in_its_name(tmp_path, capsys):
    images.write_image(tmp_path / "a;b, c" / "a.png", np.zeros((8, 8, 3)))
    assert main([str(tmp_path / "a;b, c"), "--output", str(tmp_path / "p;q")]) == 0
    assert len(PackedSource(tmp_path / "p;q")) == 1
    assert f"CLASS='packed:\"{tmp_path}/p;q\"'\n" in capsys.readouterr().out


def test_bad_photos_are_left_out_and_named(photos, tmp_path, caplog):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(photos.iterdir())[:4]:
        os.link(path, folder / path.name)
    (folder / "cut.png").write_bytes((photos / "0.png").read_bytes()[:1000])
    data = bytearray((photos / "1.png").read_bytes())
    data[-20] ^= 1  # shows only in decoding
    (folder / "1_spoilt.png").write_bytes(data)
    manifest = pack(source_of(folder), tmp_path / "packed", options=SMALL)
    assert manifest.inputs == 5
    ((name, reason),) = manifest.skipped
    assert name == "1_spoilt" and "checksum" in reason
    ((file, _),) = manifest.left_out
    assert Path(file).name == "cut.png"
    assert "1_spoilt.png" in caplog.text and "cut.png" in caplog.text
    source = PackedSource(tmp_path / "packed")
    assert source.report.summary().endswith("of 4 photos")
    assert {source.record(i).name for i in range(len(source))} == {"0", "1", "2", "3"}


def test_nothing_but_bad_photos(tmp_path):
    images.write_image(tmp_path / "photos" / "a.png", np.zeros((20, 20, 3)))
    data = bytearray((tmp_path / "photos" / "a.png").read_bytes())
    data[-20] ^= 1
    (tmp_path / "photos" / "a.png").write_bytes(data)
    with pytest.raises(PackError, match=r"none of 1 photos can be packed; first: .*checksum"):
        pack(source_of(tmp_path / "photos"), tmp_path / "packed")


def test_full_disks_are_reported(photos, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("write() failed: No space left on device; writing part; at byte 0")

    begin = packing._ShardWriter.__init__

    def second_is_full(self, folder, number, compression):
        begin(self, folder, number, compression)
        if number == 1:
            self._writer.close()
            self._writer = type("Full", (), {"write": full, "close": full})()

    monkeypatch.setattr(packing._ShardWriter, "__init__", second_is_full)
    with pytest.raises(PackError, match=r"cannot write to .*: write\(\) failed: No space left on"):
        pack(source_of(photos), tmp_path, options=SMALL)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "manifest.json",
        "part-00000.array_record",
    ]
    monkeypatch.undo()
    assert pack(source_of(photos), tmp_path, options=SMALL).complete
    assert verify(tmp_path) == []


def test_records_that_never_arrive_are_noticed(photos, tmp_path, monkeypatch):
    opened = packed.open_array_record
    fewer = type("Fewer", (), {"num_records": lambda _: 3})
    monkeypatch.setattr(packed, "open_array_record", lambda path: opened(path) and fewer())
    with pytest.raises(PackError, match=r"3 of .* records were written"):
        pack(source_of(photos), tmp_path, options=SMALL)
    assert not list(tmp_path.glob("*part-*"))


def test_a_folder_that_cannot_be_one(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PackError, match=r"cannot make the folder --output .*Not a directory"):
        pack(source_of(photos), tmp_path / "file" / "packed")


# --- verifying -----------------------------------------------------------------------------------


def test_damage_is_found_and_named(photos, tmp_path):
    manifest = pack(source_of(photos), tmp_path, options=SMALL)
    assert verify(tmp_path) == []
    path = tmp_path / manifest.shards[1].file
    data = bytearray(path.read_bytes())
    (content,) = packed.open_array_record(path).read([5])
    data[data.find(content[-500:])] ^= 1
    path.write_bytes(data)
    of_file, of_record = verify(tmp_path)
    assert "part-00001" in of_file and "checksum of the file" in of_file
    assert of_record.startswith(f"record 5 of {path}: ") and "hash mismatch" in of_record
    path.write_bytes(data[:-1])
    assert [problem.partition(" has ")[0] for problem in verify(tmp_path)] == [str(path)]
    path.unlink()
    assert verify(tmp_path) == [f"{path}: No such file or directory"]


# --- the command ---------------------------------------------------------------------------------


def test_command(photos, tmp_path, capsys):
    target = tmp_path / "packed"
    command = [str(photos), "--output", str(target), "--size", "64", "--shard-megabytes", "1"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert f"of {COUNT} photos (0 left out)" in captured.out
    assert f"--config.data.sources.CLASS=packed:{target}" in captured.out
    assert captured.err == ""  # no bar where there is no terminal
    assert json.loads((target / "manifest.json").read_text())["options"]["stride"] == 48
    assert main(["--verify", str(target)]) == 0
    assert "no damage" in capsys.readouterr().out
    path = target / "part-00000.array_record"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["--verify", str(target)]) == 1
    captured = capsys.readouterr()
    assert "damaged: " in captured.err and "1 problems" in captured.out
    assert main([*command, "--threads", "2"]) == 2
    assert "were written; --overwrite packs everything again" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--compress"]) == 0
    assert read_manifest(target).options.compression == "zstd"


def test_command_packs_pairs(photos, tmp_path, capsys):
    target = tmp_path / "packed"
    os.makedirs(tmp_path / "degraded")
    for path in photos.iterdir():
        shutil.copyfile(path, tmp_path / "degraded" / path.name)
    sources = f"pairs:{tmp_path}/degraded,{photos}"
    assert main([sources, "--output", str(target), "--size", "64"]) == 0
    assert f"of {COUNT} pairs (0 left out)" in capsys.readouterr().out
    source = PackedSource(target)
    assert source.is_pairs
    np.testing.assert_array_equal(*source[0])


def test_command_packs_one_of_several_classes(tmp_path, capsys):
    for i, name in enumerate(("clear", "haze", "low_haze")):
        write_photo(tmp_path / f"cdd11/train/{name}/1.png", i / 4)
    target = tmp_path / "packed"
    command = [f"cdd11:{tmp_path}/cdd11", "--output", str(target), "--task", "low_light+haze"]
    assert main(command) == 0
    assert read_manifest(target).task == "low_light+haze"
    assert PackedSource(target)[0].degraded[0, 0, 0] == 128
    assert main([*command[:-1], "haze"]) == 2
    assert "differ or have changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}"], "--output DIR is missing"),
        (["{photos}", "--output", "{tmp}", "--size", "9", "--stride", "10"], "--stride 10 is"),
        (["{tmp}/nowhere", "--output", "{tmp}"], "nowhere does not exist: name a folder"),
        (["{photos}/0.png", "--output", "{tmp}"], "0.png is a file: name a folder"),
        (["{photos}", "--output", "{photos}/0.png"], "0.png is not a folder; choose another one\n"),
        (["cdd11:{photos}", "--output", "{tmp}"], "--task selects a class"),
        (["{tmp}", "--output", "{tmp}/out"], "no images"),
        (["{photos}", "pairs:{photos}", "--output", "{tmp}"], "must name two folders"),
        (["--verify", "{tmp}"], "holds no manifest"),
    ],
)
def test_invalid_arguments_are_explained(photos, tmp_path, capsys, arguments, message):
    assert main([text.format(photos=photos, tmp=tmp_path) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_help_needs_no_data_libraries():
    script = (
        "import sys\nfrom dcpt_jax.data import pack\n"
        "try: pack.main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('jax', 'grain', 'array_record') if name in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert "exit status" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_sizes_are_whole_numbers(capsys):
    for text in ("1.5", "0", "x", "nan"):
        with pytest.raises(SystemExit):
            packing.parser().parse_args(["x", "--size", text])
        assert f"'{text}' is not an integer from 1" in capsys.readouterr().err
