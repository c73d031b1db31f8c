"""Prometheus and promtool: those of the machine, or those that `make browser` installed."""

import os
import shutil
import sys
from pathlib import Path

from tests.support.scope import skip_without

_FOLDER = Path(sys.prefix) / "prometheus" / "usr" / "bin"


def find_program(name: str) -> str:
    """Return the path of prometheus or promtool, or skip the test."""
    path = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{_FOLDER}")
    if path is None:
        skip_without("alerts, by Prometheus itself", "make browser")
    return path
