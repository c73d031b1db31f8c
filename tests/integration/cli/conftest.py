from pathlib import Path

import pytest
import redis

from tests.support.cli.interrupted_download import KEYS, write_keys


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
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input of an interrupted download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_REQUESTED_BY", "tests")
    write_keys(KEYS)
