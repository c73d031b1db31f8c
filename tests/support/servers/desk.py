"""Where the programs of docs/producers.md are run, as by its reader, against the real service."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import KEY, SECRET, Service
from tests.support.docs.producers_guide import PROGRAMS
from valetkey.crypto.keys import dump_private_key

NOBODY = "redis://127.0.0.1:1/0"


@dataclass(frozen=True)
class Desk:
    """A folder with the guide's programs, and the environment that its reader has set."""

    folder: Path
    environ: dict[str, str]

    def command(self, *words: str, **environ: str) -> list[Any]:
        """Run a command, and return its exit code, stdout and stderr."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return [done.returncode, done.stdout, done.stderr]

    def python(self, *words: str, **environ: str) -> list[Any]:
        """Run a program of the folder, whose warnings are errors."""
        return self.command(sys.executable, "-W", "error", *words, **environ)

    def started(self, *words: str, **environ: str) -> "subprocess.Popen[str]":
        """Start a command, to be read from, interrupted and killed."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environ | environ,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    def module(self, name: str) -> Any:
        """A program of the guide, imported into this process under no name."""
        spec = spec_from_file_location(Path(name).stem, self.folder / name)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def reading(service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk as it is once its reader has followed the guide to the recipes.

    Programs that run in this process see the same environment, those of the desk nothing else.
    """
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text, encoding="utf-8")
    key = folder / "acme.key"
    key.touch(0o600)
    key.write_text(dump_private_key(KEY))
    said = {
        "VALETKEY_BROKER_URL": service.up.running.broker_url,
        "VALETKEY_RESULT_URL": service.up.running.result_url,
        "VALETKEY_KEY_FILE": str(key),
        "VALETKEY_HOOK_SECRET": SECRET,
        "REPORTS_BROKER_URL": silent(service, 5),
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return Desk(folder, {"PATH": path, "HOME": str(folder)} | said)


def silent(service: Service, number: int) -> str:
    """A database of the broker that no worker of the service listens to."""
    return service.up.running.broker_url.rpartition("/")[0] + f"/{number}"


def is_genuine(link: str) -> bool:
    """Whether storage takes a link's signature, and only has no such object."""
    return httpx.get(link, timeout=60).status_code == 404
