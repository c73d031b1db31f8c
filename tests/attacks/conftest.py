"""The seed, the size and the table of all attacks.

`make attacks` runs them long. As a part of all tests they run in a short form.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.acceptance.conftest import running_service
from valetkey.crypto.keys import generate_key, public_key_line
from worker.dev.stack import Stack

SEED = int(os.environ.get("VALETKEY_TEST_SEED", "20261126"))
IS_LONG = os.environ.get("VALETKEY_TEST_ATTACKS") == "long"
GUARDED_KEY = generate_key("guarded/tests")  # the only key that speaks for the tenant guarded
GUARDED_TENANT = """
[tenants.guarded.allow.demo]
prefixes = ["guarded/"]
kinds = ["download", "upload"]
max_size = "1MiB"
[tenants.guarded.keys]
"""


@dataclass
class AttackTable:
    """The attacks of this run, each with the number of tries and of those that succeeded."""

    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Lines with measured times. They are printed, and no test depends on them."""

    def add(self, attack: str, tried: int, succeeded: int) -> None:
        """Add to the row of an attack."""
        before = self.rows.get(attack, (0, 0))
        self.rows[attack] = (before[0] + tried, before[1] + succeeded)


_TABLE = pytest.StashKey[AttackTable]()


@pytest.fixture
def attack_table(request: pytest.FixtureRequest) -> AttackTable:
    return request.config.stash.setdefault(_TABLE, AttackTable())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    table = terminalreporter.config.stash.get(_TABLE, AttackTable())
    if table.rows:
        terminalreporter.section(f"attacks, seed {SEED}")
    for attack, (tried, succeeded) in table.rows.items():
        terminalreporter.line(f"{attack:<65} {tried:>6} tried {succeeded:>4} succeeded")
    for note in table.notes:
        terminalreporter.line(note)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole service with a guarded tenant, on servers of its own."""
    tenant = f"{GUARDED_TENANT}{public_key_line(GUARDED_KEY)}\n"
    with running_service(tmp_path_factory.mktemp("attacked"), tenant) as service:
        yield service.stack
