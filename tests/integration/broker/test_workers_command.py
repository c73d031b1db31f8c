"""The command that lists workers."""

import json

import pytest
import redis
from click.testing import CliRunner

from tests.support.builders.heartbeats import write_heartbeat
from tests.support.features import needs
from worker.__main__ import main
from worker.broker.queues import HEARTBEAT_PREFIX


@needs("doctor")
@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-01-01"])
@pytest.mark.parametrize("field", ["started_at", "seen_at"])
def test_a_forged_heartbeat_with_an_unusable_time_is_not_listed(
    broker: str, monkeypatch: pytest.MonkeyPatch, field: str, time: str
) -> None:
    monkeypatch.setenv("VALETKEY_RESULT_URL", broker)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    with redis.Redis.from_url(broker) as client:
        write_heartbeat(client, "issue", ["valetkey"])
        text: bytes = client.get(f"{HEARTBEAT_PREFIX}issue@host:1")
        forged = json.loads(text) | {"worker": "forged", field: time}
        client.set(f"{HEARTBEAT_PREFIX}forged", json.dumps(forged))
    result = CliRunner().invoke(main, ["workers"])
    assert result.exit_code == 0
    assert "issue@host" in result.output
    assert "forged" not in result.output
