"""Finds the file in which a running `worker dev` publishes its address for other processes."""

import os
from collections.abc import Mapping
from pathlib import Path


def find_dev_file(environ: Mapping[str, str], folder: Path) -> Path | None:
    """Return the dev.json of the `worker dev` that belongs to a folder, None if there is none."""
    data_dir = environ.get("VALETKEY_DATA_DIR")
    parents = (folder, *folder.parents)
    folders = [Path(data_dir)] if data_dir else [parent / ".valetkey" for parent in parents]
    return next((f / "dev.json" for f in folders if _is_own_file(f / "dev.json")), None)


def _is_own_file(path: Path) -> bool:
    # In a folder that others can write to, another user's dev.json would redirect this client to
    # their broker; one whose folder is closed must not stop it. Windows has no user ids to compare.
    try:
        return path.is_file() and (not hasattr(os, "getuid") or path.stat().st_uid == os.getuid())
    except OSError:
        return False
