import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import run_audit
from worker.proof.checkpoint_format import SignerKey
from worker.proof.checkpoint_key import create_key_file, read_key_file

Issue = Callable[..., str]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SignerKey:
    """A new key that signs checkpoints, in the settings."""
    path = tmp_path / "audit.key"
    create_key_file(path, "audit.example.com/valetkey")
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", str(path))
    monkeypatch.setenv("VALETKEY_AUDIT_ORIGIN", "audit.example.com/valetkey")
    return read_key_file(path).signer


@pytest.fixture
def issue(
    service: InProcessService,
    apply_config: ApplyConfig,
    at_clock: Clock,  # noqa: ARG001 - of the commands
    key: SignerKey,  # noqa: ARG001 - signs
) -> Issue:
    """A function that has a batch decided, in chunks of two items, and returns its id.

    With signs=True it then signs checkpoints.
    """
    apply_config(tenant_config())

    def send(items: int = 1, *, chunks: int | None = None, signs: bool = False) -> str:
        message = grant_message([f"acme/{number}.pdf" for number in range(items)])
        for chunk in split_chunks(message, 2)[:chunks]:
            assert "refusal" not in service.issue(chunk)
        if signs:
            assert run_audit("checkpoint").exit_code == 0
        return str(message["batch"])

    return send


def prove(*words: str) -> dict[str, Any]:
    """Return the proof that the command prints."""
    result = run_audit("prove", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    proof: dict[str, Any] = json.loads(result.stdout)
    return proof


def write_checkpoint(folder: Path) -> str:
    """Write a checkpoint of acme to a file, and return its path."""
    path = str(folder / "acme.checkpoint")
    assert run_audit("checkpoint", "--tenant", "acme", "--out", path).exit_code == 0
    return path
