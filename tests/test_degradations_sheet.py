from pathlib import Path

import cv2
import numpy as np
import pytest

from dcpt_jax.degradations import get, names, sheet

DRAWN = tuple(name for name in names() if name != "clean")  # the first column shows it


@pytest.fixture
def photo() -> np.ndarray:
    ramp = np.linspace(0.1, 0.9, 90, dtype=np.float32)
    tiles = np.indices((70, 90)).sum(axis=0) // 6 % 2 * np.float32(0.5) + np.float32(0.2)
    return np.stack(np.broadcast_arrays(ramp[:70, None], ramp[None, :], tiles), axis=-1)


def test_three_strengths_span_the_range() -> None:
    assert sheet.three_strengths(get("clean")) == (0, 0, 0)
    for name in DRAWN:
        mild, medium, strong = sheet.three_strengths(get(name))
        low, high = get(name).strength_range
        assert strong == high
        assert mild == low or low == high
        assert mild < medium < strong


@pytest.mark.parametrize("crop", [0, 32, 500])
def test_layout(photo: np.ndarray, crop: int) -> None:
    drawn = sheet.draw_sheet(photo, cell=64, crop=crop)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (len(DRAWN) * (64 + 20), 4 * 64, 3)
    rows = drawn.reshape(len(DRAWN), 84, 4, 64, 3).transpose(0, 2, 1, 3, 4)
    for row in rows:
        np.testing.assert_array_equal(row[0][20:], rows[0][0][20:])  # clean
        assert all((cell[:20] < 100).any() for cell in row)  # captions
        for degraded in row[1:]:
            assert np.abs(degraded[20:].astype(int) - row[0][20:]).mean() > 0.3


def test_clean_can_be_drawn(photo: np.ndarray) -> None:
    drawn = sheet.draw_sheet(photo, cell=64, only=("clean",))
    cells = drawn[20:].reshape(64, 4, 64, 3).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(cells, np.broadcast_to(cells[0], cells.shape))


def test_further_draws_of_chosen_classes(photo: np.ndarray) -> None:
    drawn = sheet.draw_sheet(photo, cell=64, draws=2, seed=3, only=("rain", "snow"))
    assert drawn.shape == (2 * 84, 6 * 64, 3)
    first, second, third = (drawn[20:84, start : start + 64] for start in (192, 256, 320))
    for a, b in ((first, second), (second, third), (first, third)):
        assert np.abs(a.astype(int) - b).max() > 50
    another = sheet.draw_sheet(photo, cell=64, seed=4, only=("rain",))
    np.testing.assert_array_equal(another[20:84, 192:256], second)


def test_table_in_the_documents_is_that_of_the_registry(capsys) -> None:
    assert sheet.main(["--table"]) == 0
    table = capsys.readouterr().out
    for name in names():
        assert f"| `{name}` | {get(name).summary} | {get(name).unit} |" in table
    document = Path(__file__).parents[1] / "docs" / "degradations.md"
    assert table in document.read_text(), "run python -m dcpt_jax.degradations.sheet --table"


def test_jpeg_sheets_keep_full_colour(photo: np.ndarray, tmp_path) -> None:
    for suffix in ("jpg", "png"):
        arguments = ["--output", str(tmp_path / f"sheet.{suffix}"), "--only", "mosaic, noise"]
        source = tmp_path / "photo.png"
        cv2.imwrite(str(source), np.rint(photo * 255).astype(np.uint8)[..., ::-1])
        assert sheet.main([*arguments, "--photo", str(source), "--cell", "96", "--crop", "46"]) == 0
    lossless, lossy = (cv2.imread(str(tmp_path / f"sheet.{suffix}")) for suffix in ("png", "jpg"))
    assert lossless.shape == lossy.shape == (2 * 116, 4 * 96, 3)
    assert np.abs(lossless.astype(float) - lossy).mean() < 5


def test_command_writes_a_png(photo: np.ndarray, tmp_path, capsys) -> None:
    source = tmp_path / "photo.png"
    cv2.imwrite(str(source), np.rint(photo * 255).astype(np.uint8)[..., ::-1])
    output = tmp_path / "new folder" / "sheet.png"
    arguments = ["--output", str(output), "--photo", str(source), "--cell", "64", "--crop", "48"]
    assert sheet.main(arguments) == 0
    assert str(output) in capsys.readouterr().out
    written = cv2.imread(str(output))[..., ::-1]
    expected = sheet.draw_sheet(np.rint(photo * 255).astype(np.float32) / 255, cell=64, crop=48)
    np.testing.assert_array_equal(written, expected)


def test_default_photo_comes_with_scikit_image(tmp_path) -> None:
    pytest.importorskip("skimage")
    assert sheet.main(["--output", str(tmp_path / "sheet.png"), "--cell", "64"]) == 0
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (84 * len(DRAWN), 256, 3)


def test_errors_of_invalid_calls(tmp_path, capsys) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    output = str(tmp_path / "sheet.png")
    for arguments, message in (
        (["--output", output, "--photo", str(tmp_path / "none.jpg")], "none.jpg: cannot be opened"),
        (["--output", output, "--photo", str(text)], "notes.png: is not an image"),
        (["--output", output, "--photo", str(empty)], "empty.png: the file is empty"),
        (["--output", str(tmp_path / "sheet.gif")], "must end in .png, .jpg, .jpeg"),
        (["--output", output, "--only", "fog"], "unknown degradation 'fog'"),
        ([], "--output FILE.png or --table is needed"),
        (["--output", output, "--cell", "0"], "--cell must be at least 16"),
    ):
        assert sheet.main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()
