"""Runs each wrong use as a user would: as a process, against a running service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT, Service
from tests.acceptance.first_steps.wrong_uses import OPERATORS, PRODUCERS, WrongUse

FILES = {
    "keys.txt": "acme/a\nacme/b\n",
    "empty.txt": "",
    "no-key.csv": "name\nacme/a\n",
    "bad-row.csv": "key,expires_in\nacme/a,1h\nacme/b,soon\n",
    "misspelt.csv": "key,expires-in\nacme/a,1h\n",
    "finished.csv": "key,url\n",
    "syntax.toml": "[tenants.acme",
    "unknown-field.toml": '[tenants.acme.allow.demo]\nprefix = ["acme/"]\n',
    "tenants.toml": '[buckets.demo]\nbucket = "valetkey-demo"\nregion = "us-east-1"\n',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("wrong_uses")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("use", [*PRODUCERS, *OPERATORS], ids=lambda use: use.command)
def test_a_wrong_use_is_told_what_is_wrong(service: Service, folder: Path, use: WrongUse) -> None:
    result = run(use.command, folder, service)
    assert result.returncode == use.exit_code, result.stdout + result.stderr
    assert use.message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "hidden" not in result.stdout + result.stderr


def run(command: str, folder: Path, service: Service) -> subprocess.CompletedProcess[str]:
    environ = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "VALETKEY_DATA_DIR": str(service.data),
        "VALETKEY_DATABASE_URL": service.stack.info.database_url,
        "DATA": str(service.data),
        "V": f"{Path(sys.executable).parent}/valetkey",
        "W": f"{sys.executable} -m worker",
    }
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
