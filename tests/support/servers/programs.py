"""Programs that tests run to their end."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from worker.dev.data_folder import service_environment

Completed = subprocess.CompletedProcess[str]


def worker_environ(broker_url: str, result_url: str, **more: str) -> dict[str, str]:
    """Return the environment of worker processes that sign with made-up keys."""
    defaults = {
        "VALETKEY_BROKER_URL": broker_url,
        "VALETKEY_RESULT_URL": result_url,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    }
    return service_environment(os.environ, **defaults | more)


def run_program(command: Sequence[str], **options: Any) -> Completed:
    """Run a program; return its exit code, whatever that is, and its output as text."""
    options = {"timeout": 100, "check": False} | options
    return subprocess.run(command, capture_output=True, text=True, **options)  # noqa: PLW1510 - above


def run_worker(*words: str, **options: Any) -> Completed:
    """Run a command of the operator in a process of its own."""
    return run_program([sys.executable, "-m", "worker", *words], **options)
