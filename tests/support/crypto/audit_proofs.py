"""Runs the auditors' verifier, and changes proofs and the log itself."""

import base64
import json
import os
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Executable, text

from tests.support.docs.command_lines import ROOT
from tests.support.servers.programs import Completed, run_program

SCRIPT = ROOT / "docs" / "verify_audit_proof.py"


def run_verifier(proof: Path, key: str, folder: Path) -> Completed:
    """Verify a proof as an auditor does: in another folder, without the project."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), "--key", key, str(proof)]
    return run_program(command, cwd=folder, env=environ)


def changed_proofs(proof: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a proof with one value changed, for each value in it, with the path of the value."""
    for path in _paths(proof, ()):
        changed = deepcopy(proof)
        target = changed
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = _change(target[path[-1]])
        yield ".".join(map(str, path)), changed


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _paths(child, (*path, name))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _paths(child, (*path, index))
    else:
        yield path


def _change(value: Any) -> Any:
    if isinstance(value, int):
        return value + 1
    text = str(value)
    try:
        data = bytearray(base64.b64decode(text, validate=True))
    except ValueError:
        pass
    else:
        if len(data) == 32:
            data[7] ^= 16
            return base64.b64encode(data).decode()
    if text.startswith("{"):
        record = json.loads(text)
        name = max(record)
        return json.dumps(record | {name: "changed"}, sort_keys=True, separators=(",", ":"))
    position = len(text) // 2
    return text[:position] + ("0" if text[position] != "0" else "1") + text[position + 1 :]


def tamper(engine: Engine, *statements: str | Executable) -> None:
    """Change rows as an administrator of the database can."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for name in connection.scalars(text(query)).all():
                connection.execute(text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            connection.execute(text(statement) if isinstance(statement, str) else statement)
