"""Pairs: matching of files, reports of unmatched ones, and reading."""

import logging
import pickle

import numpy as np
import pytest

from dcpt_jax import images
from dcpt_jax.data import sources
from dcpt_jax.data.pair_files import pair_folders, pair_list
from dcpt_jax.data.pairs import PairSource
from dcpt_jax.data.source_factory import open_source
from dcpt_jax.data.sources import Cache
from dcpt_jax.data.spec import SourceError


def write(root, names, value=0.5, shape=(6, 8)):
    for name in names.split():
        images.write_image(root / name, np.full((*shape, 3), value))


def spoil(path):
    """Changes the pixel data, which only decoding detects."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def found(pairing):
    root = pairing.degraded.root, pairing.clean.root
    return [
        (a.relative_to(root[0]).as_posix(), b.relative_to(root[1]).as_posix())
        for a, b in zip(pairing.degraded, pairing.clean, strict=True)
    ]


@pytest.fixture
def two(tmp_path):
    """Three pairs: degraded photo i has the value 10 * i + 5, the clean one 10 * i."""
    for i in range(3):
        write(tmp_path / "bad", f"{i}.png", (10 * i + 5) / 255)
        write(tmp_path / "good", f"{i}.png", 10 * i / 255)
    return tmp_path


def source_of(root, **options):
    return PairSource(pair_folders(root / "bad", root / "good"), **options)


def values(source):
    return [tuple(int(x.mean()) for x in source[i]) for i in range(len(source))]


# --- which files belong together -------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "bad", "good", "expected"),
    [
        ("same", "a.jpg x/b.png", "a.png x/b.tif", [("a.jpg", "a.png"), ("x/b.png", "x/b.tif")]),
        ("same", "10.png 9.png", "9.png 10.png", [("10.png", "10.png"), ("9.png", "9.png")]),
        (
            "reside",
            "p1/7_0.8_0.2.jpg p2/7_1_0.1.jpg p1/8_1_1.jpg",
            "7.png 8.png",
            [("p1/7_0.8_0.2.jpg", "7.png"), ("p1/8_1_1.jpg", "8.png"), ("p2/7_1_0.1.jpg", "7.png")],
        ),
        (
            "begins",
            "1-rain.jpg 10_a.jpg 10_b.jpg 10.5.jpg cat_x.jpg p/1.jpg",
            "1.png 10.png 10_b.png 5.png cat.png",
            [
                ("1-rain.jpg", "1.png"),
                ("10.5.jpg", "10.png"),
                ("10_a.jpg", "10.png"),
                ("10_b.jpg", "10_b.png"),
                ("cat_x.jpg", "cat.png"),
                ("p/1.jpg", "1.png"),
            ],
        ),
        ("begins", "x/1_a.png", "x/1.png y/1_a.png", [("x/1_a.png", "x/1.png")]),
        ("suffix:x2", "0001x2.png", "0001.png", [("0001x2.png", "0001.png")]),
        ("suffix:in=gt", "a_in.png", "a_gt.png", [("a_in.png", "a_gt.png")]),
        ("prefix:rain=norain", "rain-001.png", "norain-001.png", [("rain-001.png",) * 2]),
        ("prefix:low=normal", "low07.png", "normal07.png", [("low07.png", "normal07.png")]),
        ("prefix:hazy_", "hazy_a.png", "a.png", [("hazy_a.png", "a.png")]),
        ("order", "p10.png p9.png", "q1.png q2.png", [("p9.png", "q1.png"), ("p10.png", "q2.png")]),
        # One name in two kinds of file: that of the same kind belongs to it.
        ("same", "a.png", "a.png a.jpg", [("a.png", "a.png")]),
        ("same", "a.PNG", "a.png a.jpg", [("a.PNG", "a.png")]),
        ("same", "a.PNG", "a.png a.PNG", [("a.PNG", "a.PNG")]),
    ],
)
def test_rules(tmp_path, rule, bad, good, expected):
    write(tmp_path / "bad", bad)
    write(tmp_path / "good", good)
    pairing = pair_folders(tmp_path / "bad", tmp_path / "good", rule)
    if rule == "prefix:rain=norain":
        expected = [("rain-001.png", "norain-001.png")]
    assert found(pairing) == expected
    assert not pairing.unpaired


def test_files_of_one_name_in_different_folders_are_not_mixed_up(tmp_path):
    write(tmp_path / "bad", "x/1.png y/1.png")
    write(tmp_path / "good", "y/1.png z/2.png")
    pairing = pair_folders(tmp_path / "bad", tmp_path / "good")
    assert found(pairing) == [("y/1.png", "y/1.png")]
    ((path, reason),) = pairing.unpaired
    assert path == tmp_path / "bad/x/1.png" and "no clean file x/1.*" in reason
    assert [p.name for p in pairing.unused] == ["2.png"]


def test_names_are_not_begun_by_half_a_number_or_word(tmp_path):
    write(tmp_path / "bad", "10_a.png catfish.png 1_a.png")
    write(tmp_path / "good", "1.png cat.png")
    pairing = pair_folders(tmp_path / "bad", tmp_path / "good", "begins")
    assert found(pairing) == [("1_a.png", "1.png")]
    assert [path.name for path, _ in pairing.unpaired] == ["10_a.png", "catfish.png"]


@pytest.mark.parametrize("rule", ["prefix:rain=norain", "reside", "begins"])
def test_both_kinds_in_one_folder(tmp_path, rule):
    names = {"prefix:rain=norain": "rain-1.png norain-1.png", "reside": "1_0.8.png 1.png"}
    names = names.get(rule, names["reside"])
    write(tmp_path, names)
    pairing = pair_folders(tmp_path, tmp_path, rule)
    assert found(pairing) == [tuple(names.split())]
    assert not pairing.unpaired and not pairing.unused


@pytest.mark.parametrize(
    ("bad", "good", "rule", "names", "expected"),
    [
        (".", "gt", "same", "1.png gt/1.png", ("1.png", "1.png")),
        (".", "x/gt", "same", "1.png x/gt/1.png", ("1.png", "1.png")),
        (".", "gt", "order", "9.png gt/8.png", ("9.png", "8.png")),
        ("in", ".", "order", "9.png in/8.png", ("8.png", "9.png")),
        ("in", ".", "reside", "7.png in/p/7_1.png", ("p/7_1.png", "7.png")),
    ],
)
def test_one_folder_in_the_other(tmp_path, bad, good, rule, names, expected):
    """Photos of the inner folder do not also belong to the outer one, paired with themselves."""
    write(tmp_path, names)
    pairing = pair_folders(tmp_path / bad, tmp_path / good, rule)
    assert found(pairing) == [expected]
    assert not pairing.unpaired and not pairing.unused


def test_no_file_is_paired_with_itself(two, monkeypatch):
    write(two / "inner", "gt/1.png")
    with pytest.raises(
        FileNotFoundError, match=r"no images in .*inner besides those in .*inner/gt"
    ):
        pair_folders(two / "inner", two / "inner/gt")
    for rule in ("same", "order"):
        with pytest.raises(SourceError, match=f"[\"']{rule}[\"'] needs two folders"):
            pair_folders(two / "bad", two / "bad/../bad", rule)
    (two / "link.png").symlink_to(two / "good/1.png")
    (two / "list.txt").write_text("bad/0.png good/0.png\nbad/1.png bad/1.png\nlink.png good/1.png")
    assert PairSource(pair_list(two / "list.txt")).report.kinds["unreadable"] == 2
    with pytest.raises(images.ImageError, match=r"1\.png and its clean photo .* the same file"):
        PairSource(pair_list(two / "list.txt"), on_bad_file="refuse")
    monkeypatch.setattr(sources, "CHECK_LIMIT", 2)
    assert values(PairSource(pair_list(two / "list.txt"))) == [(5, 0)] * 3


def test_inaccessible_files_count_as_unreadable(two):
    for side in ("bad", "good"):
        (two / side / "loop.png").symlink_to("loop.png")
    source = source_of(two)
    assert values(source) == [(5, 0), (15, 10), (25, 20)]
    assert source.report.kinds == {"unpaired": 0, "unreadable": 2, "different size": 0}
    assert source.report.total == 5
    with pytest.raises(images.ImageError, match=r"bad/loop\.png: cannot be .*on_bad_file=skip"):
        source_of(two, on_bad_file="refuse")


def test_unpaired_files_are_reported_in_both_directions(tmp_path):
    write(tmp_path / "bad", "a.png b.png odd.png")
    write(tmp_path / "good", "a.png b.jpg b.tif c.png")
    pairing = pair_folders(tmp_path / "bad", tmp_path / "good")
    assert found(pairing) == [("a.png", "a.png")]
    reasons = dict((path.name, reason) for path, reason in pairing.unpaired)
    assert (
        "several clean files belong to it" in reasons["b.png"]
        and "b.jpg, b.tif" in reasons["b.png"]
    )
    assert "no clean file odd.*" in reasons["odd.png"]
    assert [p.name for p in pairing.unused] == ["b.jpg", "b.tif", "c.png"]
    source = PairSource(pairing)
    assert source.report.summary() == (
        "1 pairs (2 of 3 degraded files left out: 2 unpaired), "
        "clean files without a degraded one: 3"
    )
    with pytest.raises(images.ImageError, match=r"b\.png: several .*on_bad_file=skip"):
        PairSource(pairing, on_bad_file="refuse")


def test_without_any_pair_the_error_shows_file_names(tmp_path):
    write(tmp_path / "bad", "1x2.png 2x2.png")
    write(tmp_path / "good", "1.png")
    with pytest.raises(
        SourceError, match=r"rule 'same' \(1x2\.png: no clean file 1x2\.\*.*'1\.png'"
    ):
        pair_folders(tmp_path / "bad", tmp_path / "good")
    with pytest.raises(SourceError, match=r"no name fits it|does not fit the rule"):
        pair_folders(tmp_path / "bad", tmp_path / "good", "suffix:x4")
    with pytest.raises(SourceError, match=r"'same' needs two folders, not .*bad twice; rules: "):
        pair_folders(tmp_path / "bad", tmp_path / "bad")


@pytest.mark.parametrize(
    ("bad", "good", "rule"),
    [
        ("0001_in.png 0002_in.png", "0001_gt.png 0002_gt.png", "suffix:in=gt"),
        ("1x2.png 2x2.png", "1.png 2.png", "begins"),
        ("rain-1.png rain-2.png", "norain-1.png norain-2.png", "prefix:=no"),
        ("1.png 2.png", "1_gt.png 2_gt.png", "suffix:=_gt"),
        ("im_1.png im_2.png", "1.png 2.png", "prefix:im_"),
        ("1_0.8_0.2.jpg 2_0.9_0.2.jpg", "1.png 2.png", "reside"),
        ("1-rain-1.png 1-rain-2.png 2-rain-1.png", "1.png 2.png", "begins"),
        ("IMG_1.jpg IMG_2.jpg", "img_1.png img_2.png", "prefix:IMG=img"),
    ],
)
def test_a_rule_that_pairs_the_names_is_offered(tmp_path, bad, good, rule):
    write(tmp_path / "bad", bad)
    write(tmp_path / "good", good)
    with pytest.raises(SourceError, match=f"; '{rule}' pairs them$"):
        pair_folders(tmp_path / "bad", tmp_path / "good")
    pairing = pair_folders(tmp_path / "bad", tmp_path / "good", rule)
    assert len(pairing) == len(bad.split()) and not pairing.unused


def test_no_rule_is_offered_that_takes_one_number_for_another(tmp_path):
    write(tmp_path / "bad", "im_1.png im_3.png")
    write(tmp_path / "good", "im_2.png im_4.png")
    with pytest.raises(SourceError, match=r"prefix:A=B, order$"):
        pair_folders(tmp_path / "bad", tmp_path / "good")


def test_accents_may_be_composed_in_two_ways(tmp_path):
    write(tmp_path / "bad", "\u00fc.png")
    write(tmp_path / "good", "u\u0308.png")
    assert found(pair_folders(tmp_path / "bad", tmp_path / "good")) == [
        ("\u00fc.png", "u\u0308.png")
    ]


def test_a_rule_for_one_folder_is_offered_where_the_names_say_which_is_clean(tmp_path):
    write(tmp_path / "known", "1_gt.png 1_in.png 2_gt.png 2_in.png")
    with pytest.raises(SourceError, match=r"; 'suffix:in=gt' pairs them$"):
        pair_folders(tmp_path / "known", tmp_path / "known")
    write(tmp_path / "unknown", "1_a.png 1_b.png")
    with pytest.raises(SourceError, match=r"prefix:A=B, order$"):
        pair_folders(tmp_path / "unknown", tmp_path / "unknown")


def test_order_needs_equally_many_files(tmp_path):
    write(tmp_path / "bad", "1.png 2.png")
    write(tmp_path / "good", "1.png")
    with pytest.raises(SourceError, match=r'"order" needs equally many .* holds 2 and .* 1'):
        pair_folders(tmp_path / "bad", tmp_path / "good", "order")


def test_missing_and_empty_folders(two):
    with pytest.raises(FileNotFoundError, match="gone"):
        pair_folders(two / "gone", two / "good")
    (two / "empty").mkdir()
    (two / "empty/a.dng").touch()
    with pytest.raises(
        FileNotFoundError, match=r"no images in the folder .*empty .*; 1 file not read: \.dng"
    ):
        pair_folders(two / "bad", two / "empty")


@pytest.mark.parametrize("rule", ["", "sam", "suffix:", "suffix", "postfix:a", "reside:x"])
def test_unknown_rules(two, rule):
    with pytest.raises(SourceError, match=r"unknown rule .*known: same, reside"):
        pair_folders(two / "bad", two / "good", rule)


def test_list_file(two):
    (two / "a b.png").write_bytes((two / "bad/0.png").read_bytes())
    (two / "list.txt").write_text("# pairs\n\nbad/2.png good/2.png\na b.png\tgood/0.png\n")
    source = PairSource(pair_list(two / "list.txt"))
    assert values(source) == [(25, 20), (5, 0)]
    assert source.names == ("2", "a b")


@pytest.mark.parametrize("gap", [" ", "\t"])
def test_list_file_of_another_system(two, gap):
    """A byte order mark, two bytes at the end of a line, and a name that holds a line separator."""
    for name in ("a\u2028b.png", "ü\xa0.png"):
        (two / name).write_bytes((two / "bad/0.png").read_bytes())
    lines = (
        f"bad/2.png{gap}good/2.png",
        f"a\u2028b.png{gap}good/0.png",
        f"ü\xa0.png{gap}good/1.png",
    )
    (two / "list.txt").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert values(PairSource(pair_list(two / "list.txt"))) == [(25, 20), (5, 0), (5, 10)]


@pytest.mark.parametrize(
    "line",
    [
        *("bad/2.png,good/2.png", "bad/2.png, good/2.png", "bad/2.png;good/2.png"),
        *('"bad/2.png" "good/2.png"', '"bad/2.png","good/2.png"', '"bad/2.png"\t"good/2.png"'),
        *("~/bad/2.png ~/good/2.png", "  # a comment\nbad/2.png good/2.png"),
        *("bad\\2.png good\\2.png", '".\\bad\\2.png",".\\good\\2.png"'),
    ],
)
def test_list_file_with_commas_quotes_or_the_home_folder(two, line, monkeypatch):
    monkeypatch.setenv("HOME", str(two))
    (two / "list.txt").write_text(f"{line}\n")
    assert values(PairSource(pair_list(two / "list.txt"))) == [(25, 20)]


def test_names_in_a_list_may_hold_commas_and_spaces(two):
    for name in ("a, b.png", "c,d.png", "e 1.png"):
        (two / name).write_bytes((two / "bad/0.png").read_bytes())
    lines = 'a, b.png\tgood/0.png\n"a, b.png" good/0.png\n"a, b.png", good/0.png\n'
    lines += "c,d.png good/0.png\ne 1.png,good/0.png\ne 1.png; good/0.png\n"
    (two / "list.txt").write_text(lines)
    assert values(PairSource(pair_list(two / "list.txt"))) == [(5, 0)] * 6


def test_a_list_of_another_folder_says_what_its_paths_are_relative_to(tmp_path):
    (tmp_path / "list.txt").write_text("data/bad/1.png data/good/1.png\n")
    with pytest.raises(
        images.ImageError, match=r"none of 1 pairs.*paths are relative to the folder"
    ):
        PairSource(pair_list(tmp_path / "list.txt"))


def test_name_that_no_file_can_have_is_one_bad_pair(two):
    (two / "list.txt").write_text(f"bad/1.png good/1.png\n{'x' * 300}.png good/0.png\n")
    source = PairSource(pair_list(two / "list.txt"))
    assert values(source) == [(15, 10)]
    assert "x.png: cannot be opened (File name too long)" in source.report.skipped[0][1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\0.png b.png", "null bytes"),
        ("a.png b.png\nc.png\n", r"list\.txt, line 2: 'c\.png' must name two files"),
        ("x" * 200_000 + " y", "line 1: 'xxx.*must name two files"),
        ("a b.png c.png", "separate them by a tab"),
        ("# nothing\n", "names no pairs"),
    ],
)
def test_bad_list_files(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(SourceError, match=message):
        pair_list(tmp_path / "list.txt")


def test_list_file_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.txt cannot be read"):
        pair_list(tmp_path / "gone.txt")
    (tmp_path / "l").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(SourceError, match="not UTF-8 text"):
        pair_list(tmp_path / "l")


# --- reading -----------------------------------------------------------------------------------


def test_pairs_by_index(two):
    source = source_of(two)
    assert values(source) == [(5, 0), (15, 10), (25, 20)]
    pair = source[1]
    assert pair.degraded.shape == pair.clean.shape == (6, 8, 3)
    assert source.describe(1) == f"{two / 'bad/1.png'} and {two / 'good/1.png'}"
    assert source.report.summary() == "3 pairs"
    for pixels in pair:
        with pytest.raises(ValueError, match="read-only"):
            pixels[0] = 1


def test_pairs_that_cannot_be_used_are_left_out_at_the_start(two, caplog):
    write(two / "good", "0.png", shape=(6, 9))
    (two / "bad/2.png").write_bytes(b"")
    source = source_of(two)
    assert values(source) == [(15, 10)]
    assert source.report.kinds == {"unpaired": 0, "unreadable": 1, "different size": 1}
    assert source.report.summary() == (
        "1 pairs (2 of 3 degraded files left out: 1 unreadable, 1 different size)"
    )
    assert "bad/0.png is 8x6, but its clean photo" in caplog.text and "is 9x6" in caplog.text
    assert "2.png: the file is empty" in caplog.text
    with pytest.raises(images.ImageError, match=r"0\.png is 8x6.*on_bad_file=skip"):
        source_of(two, on_bad_file="refuse")


def test_all_pairs_are_bad(two):
    for i in range(3):
        (two / f"good/{i}.png").write_bytes(b"")
    with pytest.raises(images.ImageError, match="none of 3 pairs can be read"):
        source_of(two)


@pytest.mark.parametrize("side", ["bad", "good"])
def test_damage_found_in_decoding_takes_the_next_pair(two, caplog, side):
    spoil(two / side / "1.png")
    source = source_of(two)
    assert values(source) == values(source) == [(5, 0), (25, 20), (25, 20)]
    assert len([m for m in caplog.messages if "pair skipped (1 so far)" in m]) == 1
    with pytest.raises(images.ImageError, match=r"1\.png"):
        source.read(1)
    refusing = source_of(two, on_bad_file="refuse")
    with pytest.raises(images.ImageError, match=r"1\.png: .*checksum.*on_bad_file=skip"):
        refusing[1]


def test_sizes_are_compared_again_where_too_many_to_check(two, monkeypatch):
    monkeypatch.setattr(sources, "CHECK_LIMIT", 2)
    write(two / "good", "0.png", shape=(6, 9))
    source = source_of(two)
    assert "too many" in source.report.summary()
    assert values(source) == [(15, 10), (15, 10), (25, 20)]


def test_clean_photos_with_a_border_lose_it(tmp_path):
    pixels = np.arange(10 * 12 * 3).reshape(10, 12, 3) / 400
    images.write_image(tmp_path / "good/1.png", pixels)
    images.write_image(tmp_path / "bad/1_1.png", pixels[2:-2, 2:-2])
    images.write_image(tmp_path / "bad/1_2.png", pixels)
    source = PairSource(pair_folders(tmp_path / "bad", tmp_path / "good", "reside", border=2))
    for degraded, clean in (source[0], source[1]):
        np.testing.assert_array_equal(degraded, clean)
    assert [source[i].clean.shape[:2] for i in range(2)] == [(6, 8), (10, 12)]


def test_turned_photos_are_compared_upright(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6
    for kind in ("jpg", "webp"):
        (tmp_path / kind / "bad").mkdir(parents=True)
        Image.new("RGB", (8, 6), "red").save(tmp_path / kind / f"bad/1.{kind}", exif=exif)
        write(tmp_path / kind / "good", "1.png", shape=(8, 6))
        (pair,) = source_of(tmp_path / kind)
        assert pair.degraded.shape == pair.clean.shape == (8, 6, 3)


def test_cache_holds_both_photos_and_is_shared(two):
    cache = Cache(3 * 2 * 6 * 8 * 3 / 1e6)
    source, photos = source_of(two, cache=cache), source_of(two, cache=cache)
    assert values(source) == values(photos)
    assert len(cache) == 3 and cache.bytes <= 3 * 2 * 6 * 8 * 3
    assert source[0] is source[0]


def test_pickled_source_leaves_the_cache_behind(two):
    source = source_of(two)
    expected = values(source)
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy._cache) == 0
    assert values(copy) == expected


def test_depth_is_kept(tmp_path):
    import cv2

    for side in ("bad", "good"):
        (tmp_path / side).mkdir()
    cv2.imwrite(str(tmp_path / "bad/a.png"), np.full((4, 4, 3), 999, np.uint16))
    write(tmp_path / "good", "a.png", shape=(4, 4))
    pair = source_of(tmp_path)[0]
    assert (pair.degraded.dtype, pair.clean.dtype) == (np.uint16, np.uint8)


def test_warnings_come_from_this_packages_logger(two, caplog):
    write(two / "bad", "odd.png")
    with caplog.at_level(logging.WARNING, logger="dcpt_jax"):
        source_of(two)
    assert "pair left out" in caplog.text and "odd.png" in caplog.text


def test_parts_are_joined_as_one_source(two):
    write(two / "more", "0.png", 1.0)
    write(two / "clean", "0.png", 0.0)
    parts = [source_of(two), PairSource(pair_folders(two / "more", two / "clean"))]
    joined = sources.Concatenated(parts)
    assert values(joined) == [(5, 0), (15, 10), (25, 20), (255, 0)]
    assert joined.names == ("1/0", "1", "2", "2/0")
    assert joined.describe(-1) == parts[1].describe(0)
    assert int(joined.read(3).degraded.mean()) == 255
    assert joined.parts == tuple(parts) and joined.is_pairs
    with pytest.raises(IndexError, match="item 4 of 4"):
        joined[4]


# --- which of the two is clean --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "swapped"),
    [
        (["gt/1.png blur/1.png", "gt/2.png blur/2.png"], True),
        (["1_sharp.png 1_blurry.png"], True),
        (["Target/1.png Input/1.png"], True),
        (["clean/hazy_town.png hazy/hazy_town.png"], True),
        (["a/1_GT.png b/1_LQ.png", "c.png d.png", "e.png f.png"], True),
        (["gt/1.png photos/1.png"], True),
        (["photos/1.png noisy/1.png"], True),
        (["blur/1.png gt/1.png", "blur/2.png sharp/2.png"], False),
        (["rain-1.png norain-1.png"], False),
        (["gt_of_blur/1.png gt_of_blur/2.png"], False),
        (["a/1.png b/1.png"], False),
        (["a/clean_room.png b/clean_room_2.png", "a/2.png b/2.png"], False),
    ],
)
def test_lists_with_the_clean_name_first_cause_a_warning(tmp_path, lines, swapped):
    file = tmp_path / "list.txt"
    file.write_text("\n".join(lines))
    pairing = pair_list(file)
    *told, missing = pairing.warnings
    assert "paths are relative to the folder of the list" in missing
    assert len(told) == swapped
    if swapped:
        assert "look swapped" in told[0]
        assert f"as list:{file},clean_first" in told[0]
    turned = pair_list(file, clean_first=True)
    assert found(turned) == [pair[::-1] for pair in found(pairing)]
    assert not (swapped and len(turned.warnings) > 1)


@pytest.mark.parametrize("option", ["clean_first", " clean_first"])
def test_order_of_a_list_can_be_stated(two, option):
    (two / "list.txt").write_text("good/1.png bad/1.png\n")
    data = open_source(f"list:{two}/list.txt,{option}")
    assert data.source.degraded[0] == two / "bad/1.png"


@pytest.mark.parametrize(
    ("clean", "degraded"),
    [
        *(("sharp", "blur"), ("targetA", "inputA"), ("no_rain", "rain")),
        *(("noise-free", "noisy"), ("norain", "rain"), ("Snow_free", "Snow")),
    ],
)
def test_swapped_folders_cause_a_warning(tmp_path, caplog, clean, degraded):
    clean, degraded = tmp_path / clean, tmp_path / degraded
    write(clean, "1.png")
    write(degraded, "1.png")
    assert not pair_folders(degraded, clean).warnings
    source = PairSource(pair_folders(clean, degraded))
    assert len(source.report.warnings) == 1 and len(source) == 1
    assert "1 of 1 pairs look swapped" in caplog.text
    assert "pairs:DEGRADED_DIR,CLEAN_DIR" in caplog.text
