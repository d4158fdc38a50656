"""The table of cases names tests that exist."""

import re

from tests.conftest import ROOT


def test_every_named_test_exists():
    table = (ROOT / "tests/cases/README.md").read_text()
    named = re.findall(r"(test_\w+\.py)::(test_\w+)", table)
    assert len(named) > 60
    missing = [
        f"{file}::{name}"
        for file, name in named
        if f"def {name}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert not missing
