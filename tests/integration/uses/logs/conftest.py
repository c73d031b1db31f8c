"""Imports of access logs by the command."""

from datetime import timedelta

import pytest
from click.testing import CliRunner

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.uses.log_imports import KEY, Import
from worker.commands.usage.group import usage


@pytest.fixture
def run(database_url: str, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch) -> Import:
    """A function that imports logs by the command, and prints JSON."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    apply_config(tenant_config())
    return lambda *words: CliRunner().invoke(usage, ["import", *map(str, words)])


@pytest.fixture
def grant_id(service: InProcessService, clock: Clock, apply_config: ApplyConfig) -> str:
    """The id of a download grant that was issued a minute before the lines of the logs."""
    apply_config(tenant_config())
    clock.time = clock.time - timedelta(seconds=1)
    issued: str = service.issue(grant_message([KEY]))["items"][0]["id"]
    return issued
