"""`python -m dcpt_jax.tables`: compares measured figures with published ones."""

import argparse
import sys
from collections.abc import Sequence

from dcpt_jax.command_line import UsageError, expanded_path, run_command
from dcpt_jax.evaluate import comparison, formats, results_page

_DETAILS = """
comparable results
  All runs must have the same convention (RGB or luma, 8 bits or floats, whole images or crops),
  classes and data. A published result is shown only for classes that were measured on its complete
  test set with whole images: evaluate with
  --config.data.datasets=FOLDER --config.data.crop_size=0.

exit status
  0: success; 2: invalid options, or results that are not comparable, with the reason on the error
  stream.
"""


def parser() -> argparse.ArgumentParser:
    """The command line's arguments."""
    result = argparse.ArgumentParser(
        prog="python -m dcpt_jax.tables",
        usage="%(prog)s RUN... [options]",
        description="Compares measured with published results.",
        epilog=_DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add(
        "runs",
        nargs="*",
        type=expanded_path,
        metavar="RUN",
        help="work directory of configs/evaluate.py, or its evaluation.json",
    )
    add("--format", choices=tuple(formats.FORMATS), default="markdown", help="default: markdown")
    add(
        "--published",
        metavar="METHOD,...",
        help="published methods to show, such as DCPT-NAFNet,PromptIR (default: the runs' "
        "backbones, with and without pre-training; '' = none)",
    )
    add(
        "--page",
        action="store_true",
        help="print docs/results.md instead: a section per run, missing measurements, and all "
        "published tables",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, except that argparse itself exits with 2."""
    return run_command(parser(), run, arguments)


def run(options: argparse.Namespace) -> int:
    """Prints the requested tables."""
    if not options.runs and not options.page:
        raise UsageError("RUN is missing: give at least one work directory of an evaluation")
    methods = options.published
    if methods is not None:
        methods = [name.strip() for name in methods.split(",") if name.strip()]
    try:
        runs = comparison.read_runs(options.runs)
        if options.page:
            text = results_page.page(runs)
        else:
            text = formats.FORMATS[options.format](comparison.compare(runs, methods))
    except comparison.ComparisonError as error:
        raise UsageError(str(error)) from error
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
