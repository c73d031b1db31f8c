import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.dev.stack import Commands, Stack, running_stack

CHECKOUT = Path(__file__).parents[3]
EXAMPLE = CHECKOUT / "examples" / "tenants.toml"
RUNNING_SERVICE = {
    "VALETKEY_DATABASE_URL": "sqlite:////valetkey-of-the-running-service/valetkey.db",
    "VALETKEY_BROKER_URL": "redis://broker.example.com/0",
    "VALETKEY_RESULT_URL": "redis://broker.example.com/1",
    "VALETKEY_S3_INTERNAL_ENDPOINT": "https://s3.example.com",
    "VALETKEY_AUDIT_CHECKPOINTS": "https://audit.example.com/hooks",
    "VALETKEY_AUDIT_KEY_FILE": "/valetkey-of-the-running-service/audit.key",
}
AWS = {"AWS_PROFILE": "work", "AWS_SECRET_ACCESS_KEY": "a developer's own"}
SHELL = {"PATH": os.defpath, "VALETKEY_CONCURRENCY": "3", **AWS, **RUNNING_SERVICE}


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
