"""The state of `dev` in its data folder between starts: its ports and the last tenants file."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from worker.devstack.folder import FolderUnusable, write_private


@dataclass(frozen=True, slots=True)
class StackState:
    """The ports of the last start, and the tenants file that was applied last, if known."""

    broker_port: int | None = None
    s3_port: int | None = None
    tenants_file: str | None = None


def load_state(data: Path) -> StackState:
    """Return the state of a data folder, an empty one before the first start.

    Raises FolderUnusable if the file was damaged.
    """
    path = data / "state.json"
    if not path.exists():
        return StackState()
    try:
        state = StackState(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise FolderUnusable(
            f"{path} is damaged: delete it. Only the ports of the last start are lost."
        ) from None
    return state


def save_state(data: Path, state: StackState) -> None:
    """Replace the state of a data folder."""
    write_private(data / "state.json", json.dumps(asdict(state), indent=2) + "\n")


def remember_tenants_file(data: Path, tenants: Path) -> None:
    """Record which tenants file was applied last."""
    save_state(data, replace(load_state(data), tenants_file=str(tenants.resolve())))
