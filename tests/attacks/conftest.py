"""The seed, the size and the table of all attacks.

`make attacks` runs them long. As a part of all tests they run in a short form.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT
from valetkey.crypto.keys import generate_key, public_key_line
from worker.dev.stack import Stack, running_stack

SEED = int(os.environ.get("VALETKEY_TEST_SEED", "20261126"))
IS_LONG = os.environ.get("VALETKEY_TEST_ATTACKS") == "long"
_NOTES = pytest.StashKey[list[str]]()
_TABLE = pytest.StashKey[dict[str, tuple[int, int]]]()


GUARDED_KEY = generate_key("guarded/tests")  # the only key that speaks for the tenant guarded
GUARDED_TENANT = """
[tenants.guarded.allow.demo]
prefixes = ["guarded/"]
kinds = ["download", "upload"]
max_size = "1MiB"
[tenants.guarded.keys]
"""


class AttackTable:
    """The attacks of this run: each with the number of tries, and of those that succeeded."""

    def __init__(self, config: pytest.Config) -> None:
        self._rows = config.stash.setdefault(_TABLE, {})
        self._notes = config.stash.setdefault(_NOTES, [])

    def add(self, attack: str, tried: int, succeeded: int) -> None:
        """Add to the row of an attack."""
        before = self._rows.get(attack, (0, 0))
        self._rows[attack] = (before[0] + tried, before[1] + succeeded)

    def note(self, text: str) -> None:
        """Add a line with measured times. They are printed, and no test depends on them."""
        self._notes.append(text)


@pytest.fixture
def attack_table(request: pytest.FixtureRequest) -> AttackTable:
    return AttackTable(request.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    rows = terminalreporter.config.stash.get(_TABLE, {})
    if rows:
        terminalreporter.section(f"attacks, seed {SEED}")
        for attack, (tried, succeeded) in rows.items():
            terminalreporter.line(f"{attack:<65} {tried:>6} tried {succeeded:>4} succeeded")
    for note in terminalreporter.config.stash.get(_NOTES, []):
        terminalreporter.line(note)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service with the example's tenants and a guarded one, on servers of its own."""
    folder = tmp_path_factory.mktemp("attacked")
    tenants = folder / "tenants.toml"
    example: Path = ROOT / "examples" / "tenants.toml"
    tenants.write_text(f"{example.read_text()}{GUARDED_TENANT}{public_key_line(GUARDED_KEY)}\n")
    with running_stack(folder / "data", tenants, dict(os.environ)) as running:
        yield running
