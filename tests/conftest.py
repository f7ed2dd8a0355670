"""What all tests share: the markers of tests that run only when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Place
from tests.tiny import save_model

REASONS = {
    "slow": "slow: run with --slow",
    "gpu": "needs a CUDA device: run with --gpu",
    "network": "needs the internet: run with --network",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add one option for each marker."""
    for marker in REASONS:
        parser.addoption(f"--{marker}", action="store_true", help=f"run the tests marked {marker}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the marked tests that nobody asked for."""
    for marker, reason in REASONS.items():
        if not config.getoption(f"--{marker}"):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    """Return a folder that holds a model, and the command line."""
    return Place(tmp_path, str(save_model(tmp_path / "model")), capsys)
