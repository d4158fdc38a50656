import argparse
import subprocess
import sys

import pytest

from dcpt_jax.command_line import UsageError, run_command


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UsageError("give --this"), 2, "error: give --this\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_how_commands_end(error, status, message, capsys):
    def run(options):
        raise error

    assert run_command(argparse.ArgumentParser(), run, []) == status
    assert capsys.readouterr().err == message


def test_the_status_is_that_of_the_command():
    parser = argparse.ArgumentParser()
    parser.add_argument("--status", type=int)
    assert run_command(parser, lambda options: options.status, ["--status", "1"]) == 1


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
