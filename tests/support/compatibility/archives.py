"""The last release, as `make archive` stored it."""

import json
import tarfile
from pathlib import Path
from typing import Any

from tests.support.compatibility.releases import CHECKOUT, Release

(ARCHIVE,) = (CHECKOUT / "tests" / "compatibility").glob("v*.tar.xz")
_SCHEMAS = "docs/contract/"


def extract_release(folder: Path) -> Release:
    """Extract the packages of the last release into a folder."""
    name = ARCHIVE.name.removesuffix(".tar.xz")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / name, filter="data")
    return Release(name, folder / name)


def released_schemas() -> dict[str, Any]:
    """Return the JSON Schemas of the last release, by their file."""
    with tarfile.open(ARCHIVE) as archive:
        names = [name for name in archive.getnames() if name.endswith(".schema.json")]
        files = {name.removeprefix(_SCHEMAS): archive.extractfile(name) for name in names}
        return {name: json.load(file) for name, file in files.items() if file is not None}
