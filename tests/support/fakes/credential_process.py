"""An AWS profile whose credentials a process prints, as operators' own vaults do."""

import json
from datetime import datetime
from pathlib import Path

import pytest


class CredentialProcess:
    """What the profile "vault" finds: temporary credentials, for as long as it is told."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self._content, self._looks = home / "vault.json", home / "looks"
        print_it = f'sh -c "echo >> {self._looks}; cat {self._content}"'
        config = home / "config"
        config.write_text(
            "[profile static]\naws_access_key_id = AKIASTATIC\naws_secret_access_key = SECRET\n"
            f"[profile vault]\ncredential_process = {print_it}\n"
        )
        patch.setenv("AWS_CONFIG_FILE", str(config))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "none"))

    def keep(self, access_key: str, ends: datetime) -> None:
        content = {
            "Version": 1,
            "AccessKeyId": access_key,
            "SecretAccessKey": "SECRET",
            "SessionToken": "TOKEN",
            "Expiration": ends.isoformat(),
        }
        self.print(json.dumps(content))

    def print(self, content: str) -> None:
        self._content.write_text(content)

    def empty(self) -> None:
        self._content.unlink()

    def looks(self) -> int:
        """How often it was asked."""
        return len(self._looks.read_text().splitlines())
