"""Lets a process import the project's packages from one release only, and records each import.

Python imports this module at start-up in every process that has this folder in PYTHONPATH. The
project may also be installed in the environment, where other modules would be found.
"""

import json
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

_PACKAGES = ("valetkey", "worker", "models", "celeryconfig")
_RELEASE = os.environ["VALETKEY_TEST_RELEASE"]
_RECORD = os.environ["VALETKEY_TEST_IMPORTS"]


class ReleaseFinder:
    """Finds the project's packages in the release's folder."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return None for all other modules. Raises ImportError if the package is elsewhere."""
        if name not in _PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        origin = str(spec and spec.origin)
        with open(_RECORD, "a", encoding="utf-8") as record:  # noqa: PTH123 - pathlib costs 10 ms
            record.write(json.dumps([os.getpid(), name, origin]) + "\n")
        if not origin.startswith(_RELEASE + os.sep):
            raise ImportError(f"{name} is {origin}, not of the release in {_RELEASE}")
        return spec


sys.meta_path.insert(0, ReleaseFinder)
