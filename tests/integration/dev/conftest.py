import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.dev.stack import Commands, Stack, running_stack

CHECKOUT = Path(__file__).parents[3]
EXAMPLE = CHECKOUT / "examples" / "tenants.toml"
SHELL = {"PATH": os.defpath, "AWS_PROFILE": "work", "AWS_SECRET_ACCESS_KEY": "a developer's own"}


def python_command(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


SLEEP = python_command("import time; time.sleep(600)")
NO_WORKERS = Commands(worker=SLEEP, beat=SLEEP, are_workers_ready=lambda _url, _supervisors: True)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `dev` runs, with its data in .valetkey."""
    return tmp_path_factory.mktemp("dev")


@pytest.fixture(scope="session")
def data(folder: Path) -> Path:
    return folder / ".valetkey"


@pytest.fixture(scope="session")
def stack(data: Path) -> Iterator[Stack]:
    """A stack whose workers do nothing."""
    with running_stack(data, None, SHELL, commands=NO_WORKERS) as stack:
        yield stack
