import argparse
import os
import subprocess
import sys
import types

import pytest

from dcpt_jax import command_line
from dcpt_jax.command_line import UsageError, run_command
from dcpt_jax.interruption import Interruption


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("give --this"), 2, "error: give --this\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BlockingIOError(11, "Try again"), 1, "error: [Errno 11] Try again\n"),  # of a pipe, say
        (
            FileNotFoundError(2, "No such file", "a.png"),
            1,
            "error: [Errno 2] No such file: 'a.png'\n",
        ),
    ],
)
def test_how_commands_end(error, status, message, capsys):
    def run(options):
        raise error

    assert run_command(argparse.ArgumentParser(), run, []) == status
    assert capsys.readouterr().err == message


def test_unfinished_tasks_of_orbax_after_a_failure_are_not_shown():
    code = """
import sys
from dcpt_jax.command_line import guarded
class Late:
    def __init__(self, text): self.text = text
    def __del__(self): raise RuntimeError(self.text)
guarded(lambda interruption: 0)
Late("Event loop is closed")
Late("something else")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "something else" in done.stderr and "Event loop" not in done.stderr


def test_ctrl_c_inside_a_callback_is_raised_again(capsys):
    def in_callback():
        command_line.show_unraisable(types.SimpleNamespace(exc_value=KeyboardInterrupt()))
        for _ in range(10**6):
            pass

    interruption = Interruption()
    with interruption, interruption.raising(), pytest.raises(KeyboardInterrupt):
        in_callback()
    assert not capsys.readouterr().err


def test_the_status_is_that_of_the_command():
    parser = argparse.ArgumentParser()
    parser.add_argument("--status", type=int)
    assert run_command(parser, lambda options: options.status, ["--status", "1"]) == 1


def test_an_empty_path_is_not_the_current_folder(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=command_line.expanded_path)
    with pytest.raises(SystemExit):
        parser.parse_args(["--output", ""])
    assert (
        "--output: the path is empty, as of a variable that is not set" in capsys.readouterr().err
    )


def test_an_unknown_flag_names_the_most_similar_one(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output")
    with pytest.raises(SystemExit) as ended:
        run_command(parser, lambda options: 0, ["--ouput=x", "--output=y"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --ouput=x; did you mean --output?" in capsys.readouterr().err


def test_a_mistyped_flag_is_told_before_a_missing_one(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("inputs", nargs="*")
    with pytest.raises(SystemExit):
        run_command(parser, lambda options: 0, ["a.png", "--ouput", "x"])
    assert "--ouput; did you mean --output?" in capsys.readouterr().err
    assert run_command(parser, lambda options: 0, ["--out", "x", "--", "--a.png"]) == 0


@pytest.mark.parametrize(
    ("text", "number"), [("5", 5), ("1e3", 1000), ("2.0", 2), ("1e12", 10**12)]
)
def test_whole_numbers(text, number):
    assert command_line.positive_int(text) == number


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "1e13", "9" * 5000, "", "many"])
def test_what_is_no_whole_number(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'.{0,40}' is not an integer from 1"):
        command_line.positive_int(text)


def test_a_reader_that_ends_early_brings_no_traceback():
    code = (
        "import argparse, sys\n"
        "from dcpt_jax.command_line import Display, run_command\n"
        "def run(options):\n"
        "    while True: Display(1).line('x' * 1000)\n"
        "sys.exit(run_command(argparse.ArgumentParser(), run, []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("flush", [True, False])
def test_a_full_disk_is_reported_in_one_sentence(flush):
    code = (
        "import argparse, sys\n"
        "from dcpt_jax.command_line import run_command\n"
        f"run = lambda options: print('x', flush={flush}) or 0\n"
        "sys.exit(run_command(argparse.ArgumentParser(), run, []))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: No space left on device\n"


def test_names_that_the_terminal_cannot_show_are_escaped():
    code = (
        "import argparse, sys\n"
        "from dcpt_jax.command_line import run_command\n"
        "sys.exit(run_command(argparse.ArgumentParser(), lambda options: print('\\xe9') or 0, []))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout) == (0, "\\xe9\n")


def test_a_line_of_output_stays_one_line(capsys):
    display = command_line.Display(1)
    display.done("restored: a\nb\x1b[2J \u3000\u5199\U0001f600.png")
    display.failure("c\rd.png: the file is empty")
    shown = capsys.readouterr()
    assert shown.out == "restored: a\\nb\\x1b[2J \u3000\u5199\U0001f600.png\n"
    assert shown.err == "failed: c\\rd.png: the file is empty\n"


def test_progress_of_a_large_photo_shows_away_from_a_terminal(monkeypatch, capsys):
    display = command_line.Display(1)
    display.tile(1, 3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(command_line, "_QUIET_SECONDS", 0)
    display.tile(2, 3)
    assert capsys.readouterr().err == "  tile 2/3\n"
