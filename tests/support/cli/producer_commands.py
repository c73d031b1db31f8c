"""Runs `valetkey` in this process, beside a fake service."""

import csv
from pathlib import Path
from typing import Any

from click.testing import Result

from tests.support.cli.interrupted_download import run_cli
from tests.support.fakes.fake_service import FakeService, running_fake_service


class Cli:
    """Runs commands, each beside a fake service of its own; the last service is kept."""

    service: FakeService

    def __init__(self, broker: str) -> None:
        self.broker = broker

    def __call__(self, *words: str, stdin: str | bytes = "", **behaviour: Any) -> Result:
        """Run a command; behaviour has the arguments of running_fake_service."""
        with running_fake_service(self.broker, **behaviour) as self.service:
            return run_cli(*words, stdin=stdin)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages that the last command sent."""
        return [message for _, message in self.service.received]

    def refuses(self, *words: str) -> str:
        """Run a command that is used wrongly and sends nothing, and return its error."""
        result = self(*words)
        assert (result.exit_code, self.messages) == (2, []), result.exception
        return result.stderr


def read_csv(file_name: str) -> list[dict[str, str]]:
    with Path(file_name).open(newline="") as stream:
        return list(csv.DictReader(stream))
