"""Imports of access logs by the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from models import Use
from tests.support.builders.messages import grant_message
from tests.support.uses.access_logs import aws_line
from tests.support.uses.use_service import UseService
from worker.uses.use_commands import uses

Import = Callable[..., Result]
KEY = "acme/a.pdf"


def numbers(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


class AccessLog:
    """A log of downloads by one grant, which was issued just before."""

    def __init__(self, service: UseService, run: Import, path: Path) -> None:
        self.service, self.run, self.path = service, run, path
        service.clock.forward(seconds=-1)
        (self.grant_id,) = service.ids(grant_message([KEY]))

    def lines(self, *requests: str) -> bytes:
        return b"".join(aws_line(self.grant_id, request_id=request) for request in requests)

    def import_(self, *requests: str, before: bytes = b"", after: bytes = b"") -> dict[str, Any]:
        """Write the log anew, and import what it has; return the numbers that are printed."""
        self.path.write_bytes(before + self.lines(*requests) + after)
        return self.import_again()

    def import_again(self) -> dict[str, Any]:
        return numbers(self.run(self.path, "--json"))

    def recorded(self) -> list[Any]:
        return list(self.service.rows(Use.event, Use.remote_address, Use.user_agent))


@pytest.fixture
def run(service: UseService, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Import:
    assert service.engine
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    return lambda *words: CliRunner().invoke(uses, ["import", *map(str, words)])


@pytest.fixture
def log(service: UseService, run: Import, tmp_path: Path) -> AccessLog:
    return AccessLog(service, run, tmp_path / "access.log")
