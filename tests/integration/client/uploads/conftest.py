from pathlib import Path

import pytest
import redis

from tests.support.fakes.multipart_service import CONTENT


@pytest.fixture
def broker(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty broker, configured in the environment, and a working directory with a film."""
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    # The tests count messages, so none must be sent again.
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    Path("film").write_bytes(CONTENT)
    return valkey_url
