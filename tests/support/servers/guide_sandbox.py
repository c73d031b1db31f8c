"""A folder and environment for running the programs of docs/producers.md on the real service."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import SECRET, Service
from tests.support.docs.producers_guide import PROGRAMS

UNREACHABLE_URL = "redis://127.0.0.1:1/0"


@dataclass(frozen=True)
class GuideSandbox:
    """A folder with the guide's programs, and the environment variables that the guide sets."""

    folder: Path
    environ: dict[str, str]

    def command(self, *words: str, **environ: str) -> list[Any]:
        """Run a command; return its exit code, stdout and stderr."""
        completed = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return [completed.returncode, completed.stdout, completed.stderr]

    def python(self, *words: str, **environ: str) -> list[Any]:
        """Run a Python program of the folder, with warnings as errors."""
        return self.command(sys.executable, "-W", "error", *words, **environ)

    def start(self, *words: str, **environ: str) -> "subprocess.Popen[str]":
        """Start a command and return its process, with pipes for stdout and stderr."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environ | environ,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    def load_module(self, name: str) -> Any:
        """Import a program of the guide into this process, without adding it to sys.modules."""
        spec = spec_from_file_location(Path(name).stem, self.folder / name)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def create_guide_sandbox(
    service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> GuideSandbox:
    """Write the guide's programs, and set the environment that its recipes need.

    The environment also applies to this process. Programs that the sandbox starts see nothing else.
    """
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = service.producer_environ(folder) | {
        "PATH": path,
        "VALETKEY_HOOK_SECRET": SECRET,
        "REPORTS_BROKER_URL": unused_database_url(service, 5),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return GuideSandbox(folder, {"HOME": str(folder)} | variables)


def unused_database_url(service: Service, number: int) -> str:
    """Return the URL of a database of the broker from which no worker consumes."""
    return service.stack.info.broker_url.rpartition("/")[0] + f"/{number}"


def is_genuine(link: str) -> bool:
    """Return whether storage accepts a link's signature (404 for a missing object, not 403)."""
    return httpx.get(link, timeout=60).status_code == 404
