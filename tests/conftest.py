"""Shared fixtures of the test-suite."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference recordings beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("the reference recordings are not beside this checkout")
    return folder
