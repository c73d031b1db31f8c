import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.cli.operator import run_audit
from worker.base.database_engine import read_transaction
from worker.ledger.merkle import NO_LEAVES, RightEdge
from worker.proof import checkpoints
from worker.proof.checkpoint_format import SignerKey
from worker.proof.checkpoint_key import CheckpointKeys, create_key_file, read_key_file
from worker.proof.checkpoint_rows import read_head

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


Lose = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of acme at the only destination."""
    publish_to(monkeypatch, tmp_path / "out")
    return tmp_path / "out" / "acme"


def publish_to(monkeypatch: pytest.MonkeyPatch, *destinations: object) -> None:
    monkeypatch.setenv("VALETKEY_AUDIT_CHECKPOINTS", ",".join(map(str, destinations)))


@pytest.fixture
def lose(engine: Engine, key: SignerKey, tmp_path: Path) -> Lose:
    """Publish checkpoints after the present leaves of a tree, whose leaves the database lost."""

    def lose(
        *more: int, folder: Path | None = tmp_path / "out" / "acme", tenant: str = "acme"
    ) -> list[str]:
        with read_transaction(engine) as connection:
            head = read_head(connection, tenant)
        edge = NO_LEAVES if head is None else RightEdge.from_bytes(*head)
        notes = []
        for number in more:
            edge = edge.extend(secrets.token_bytes(32) for _ in range(number))
            notes.append(note_of(edge, key, tenant))
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{edge.size:012d}.checkpoint").write_text(notes[-1])
        return notes

    return lose


def note_of(edge: RightEdge, key: SignerKey, tenant: str = "acme") -> str:
    now = datetime.now(UTC)
    return checkpoints._sign_edge(CheckpointKeys(key), tenant, edge, now).note
