"""Settings of checkpoints, and their publication, in tests."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from worker.context import Context
from worker.core.tree.signed_note import SignerKey
from worker.db.tree.checkpoints import Publication
from worker.settings import Settings
from worker.usecases.checkpoints.publish import publish_checkpoints
from worker.usecases.checkpoints.signing_key import CheckpointKeys

KEYS = CheckpointKeys(SignerKey("audit.example.com/valetkey", bytes(range(32))))


def settings(*destinations: str | Path, **changes: Any) -> Settings:
    text = ",".join(map(str, destinations))
    values = {"audit_webhook_secret": "env:AUDIT_SECRET"} | changes
    return Settings(audit_checkpoints=SecretStr(text), **values)


def publish(context: Context, *destinations: str | Path) -> list[Publication]:
    return list(publish_checkpoints(context, settings(*destinations)))


def problems(rows: list[Publication]) -> list[str | None]:
    return [row.problem for row in rows]
