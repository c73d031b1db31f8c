"""An AWS profile whose credentials are printed by a process, like those of an operator's vault."""

import json
from datetime import datetime
from pathlib import Path

import pytest


class CredentialProcess:
    """The credential process of the profile "vault"; its output is set by the test."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._output, self._calls = directory / "vault.json", directory / "calls"
        command = f'sh -c "echo >> {self._calls}; cat {self._output}"'
        config = directory / "config"
        config.write_text(
            "[profile static]\naws_access_key_id = AKIASTATIC\naws_secret_access_key = SECRET\n"
            f"[profile vault]\ncredential_process = {command}\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(directory / "none"))

    def write_credentials(self, access_key: str, expires_at: datetime) -> None:
        """Make the process print temporary credentials."""
        content = {
            "Version": 1,
            "AccessKeyId": access_key,
            "SecretAccessKey": "SECRET",
            "SessionToken": "TOKEN",
            "Expiration": expires_at.isoformat(),
        }
        self.write_output(json.dumps(content))

    def write_output(self, content: str) -> None:
        self._output.write_text(content)

    def remove_output(self) -> None:
        """Make the process fail."""
        self._output.unlink()

    def call_count(self) -> int:
        return len(self._calls.read_text().splitlines())
