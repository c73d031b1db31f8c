"""The previous client keeps waiting when the service says that it is unavailable."""

import subprocess
from pathlib import Path

import pytest

from tests.support.compatibility.producers import start_command
from tests.support.compatibility.releases import previous_release
from tests.support.fakes.fake_service import Action, running_fake_service
from worker.devstack.broker import running_valkey


@pytest.mark.parametrize("action", ["wait", "give up"])
def test_the_previous_client_ignores_the_hint_and_sends_again(
    tmp_path: Path, action: Action
) -> None:
    release = previous_release(tmp_path)
    with (
        running_valkey(tmp_path / "broker") as server,
        running_fake_service(
            server.url(), lambda _message, arrival: "answer" if arrival > 2 else action
        ) as service,
        start_command(
            release,
            tmp_path,
            {
                "HOME": str(tmp_path),
                "VALETKEY_BROKER_URL": server.url(),
                "VALETKEY_TENANT": "acme",
            },
            *("download", "reports", "a.pdf"),
        ) as command,
    ):
        try:
            output, errors = command.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            command.kill()
            raise
    assert (command.returncode, errors) == (0, "")
    assert output == "http://127.0.0.1/reports/0\n"
    assert list(service.arrivals.values()) == [3]
