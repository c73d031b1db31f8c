from pathlib import Path

import pytest
import redis

from tests.support.cli.interrupted_download import DOWNLOAD, KEYS, interrupt_chunk, write_keys
from tests.support.cli.producer_commands import Cli


@pytest.fixture
def broker(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty broker, configured in the environment, and an empty working directory."""
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    return valkey_url


@pytest.fixture
def cli(broker: str) -> Cli:
    """Runs commands beside a fake service."""
    return Cli(broker)


@pytest.fixture
def keys_file(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - its folder
    """The input of an interrupted download."""
    monkeypatch.setenv("VALETKEY_REQUESTED_BY", "tests")
    write_keys(KEYS)


@pytest.fixture
def interrupted(cli: Cli, keys_file: None) -> Cli:  # noqa: ARG001 - the input
    """A download that Ctrl-C interrupted at its third chunk."""
    assert cli(*DOWNLOAD, plan=interrupt_chunk(2)).exit_code == 130
    return cli
