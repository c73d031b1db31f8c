import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from worker.commands.audit.group import audit
from worker.core.tree.signed_note import SignerKey
from worker.db.audit.changes import ChangeAuthor, record_changes
from worker.db.engine import write_transaction
from worker.usecases.checkpoints.signing_key import create_key_file, read_key_file

Run = Callable[..., Result]
Issue = Callable[..., str]
Prove = Callable[..., dict[str, Any]]


@pytest.fixture
def run(database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs `python -m worker audit` with the clock of the service."""
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setattr("worker.clock.now", clock)
    name = "python -m worker audit"
    return lambda *words, **options: CliRunner().invoke(
        audit, list(words), prog_name=name, **options
    )


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SignerKey:
    """A new key that signs checkpoints, in the settings."""
    path = tmp_path / "audit.key"
    create_key_file(path, "audit.example.com/valetkey")
    monkeypatch.setenv("VALETKEY_AUDIT_KEY_FILE", str(path))
    monkeypatch.setenv("VALETKEY_AUDIT_ORIGIN", "audit.example.com/valetkey")
    return read_key_file(path).signer


@pytest.fixture
def issue(service: InProcessService, apply_config: ApplyConfig) -> Issue:
    """A function that has a batch decided, in chunks of two items, and returns its id."""
    apply_config(tenant_config())
    author = ChangeAuthor(service.context.now(), "alice", "apply")
    with write_transaction(service.context.engine) as connection:
        record_changes(connection, [("tenants.acme.trust", None, "queue")], author)

    def send(items: int = 1, *, chunks: int | None = None) -> str:
        message = grant_message([f"acme/{number}.pdf" for number in range(items)])
        for chunk in split_chunks(message, 2)[:chunks]:
            assert "refusal" not in service.issue(chunk)
        return str(message["batch"])

    return send


@pytest.fixture
def prove(run: Run) -> Prove:
    """A function that returns the proof that the command prints."""

    def prove(*words: str) -> dict[str, Any]:
        result = run("prove", *words)
        assert (result.exit_code, result.stderr) == (0, "")
        proof: dict[str, Any] = json.loads(result.stdout)
        return proof

    return prove


@pytest.fixture
def since(run: Run, tmp_path: Path) -> Callable[[], str]:
    """A function that writes a checkpoint of acme to a file, and returns its path."""

    def write() -> str:
        path = tmp_path / "acme.checkpoint"
        assert run("checkpoint", "--tenant", "acme", "--out", str(path)).exit_code == 0
        return str(path)

    return write
