from pathlib import Path

import pytest

from tests.support.fakes.multipart_service import CONTENT


@pytest.fixture
def broker(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty broker, configured in the environment, and a working directory with a film."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", broker)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    # The tests count messages, so none must be sent again.
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    Path("film").write_bytes(CONTENT)
    return broker
