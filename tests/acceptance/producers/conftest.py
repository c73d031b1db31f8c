import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import ROOT, SECRET, Service
from tests.support.s3 import chromium
from tests.support.scope import skip_without
from tests.support.servers.programs import run_program

PRODUCERS = ROOT / "examples" / "producers"
GUIDE = (ROOT / "docs" / "producers.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL
)
COMMANDS = [text for language, text in BLOCKS if not language]
_FILE_NAME = re.compile(r"# (\w+\.py)\n")
PROGRAMS = {
    match[1]: text
    for language, text in BLOCKS
    if language == "python" and (match := _FILE_NAME.match(text))
}
RECIPES: list[str] = re.findall(r"^## \d+\. (.+)$", GUIDE, re.MULTILINE)


def run_notebook(notebook: str) -> list[str]:
    """Run the cells of a notebook in order, and return the text displayed below each."""
    names: dict[str, Any] = {}
    return [_run_cell(cell, names) for cell in re.split(r"^# %%.*$", notebook, flags=re.MULTILINE)]


def _run_cell(cell: str, names: dict[str, Any]) -> str:
    tree = ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102 - the guide's own code
    if not isinstance(last, ast.Expr):
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307 - as above
    return "" if value is None else repr(value)


UNREACHABLE_URL = "redis://127.0.0.1:1/0"


@dataclass(frozen=True)
class GuideSandbox:
    """A folder with the guide's programs, and the environment variables that the guide sets."""

    folder: Path
    environ: dict[str, str]

    def command(self, *words: str, **environ: str) -> list[Any]:
        """Run a command; return its exit code, stdout and stderr."""
        completed = run_program(words, cwd=self.folder, env=self.environ | environ)
        return [completed.returncode, completed.stdout, completed.stderr]

    def python(self, *words: str, **environ: str) -> list[Any]:
        """Run a Python program of the folder, with warnings as errors."""
        return self.command(sys.executable, "-W", "error", *words, **environ)

    def start(self, *words: str, **environ: str) -> "subprocess.Popen[str]":
        """Start a command and return its process, with pipes for stdout and stderr."""
        pipe, environ = subprocess.PIPE, self.environ | environ
        return subprocess.Popen(
            words, cwd=self.folder, env=environ, stdout=pipe, stderr=pipe, text=True
        )

    def load_module(self, name: str) -> Any:
        """Import a program of the guide into this process, without adding it to sys.modules."""
        spec = spec_from_file_location(Path(name).stem, self.folder / name)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def is_genuine(link: str) -> bool:
    """Return whether storage accepts a link's signature (404 for a missing object, not 403)."""
    return httpx.get(link, timeout=60).status_code == 404


@pytest.fixture(scope="session")
def node() -> str:
    node_path = chromium.node()
    if node_path is None or not (PRODUCERS / "node_modules").exists():
        skip_without("the producer in Node.js", "make browser")
    return node_path


@pytest.fixture
def sandbox(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GuideSandbox:
    """The guide's programs in a new folder, with the environment that its recipes need.

    The environment also applies to this process. Programs that the sandbox starts see nothing else.
    """
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    variables = service.producer_environ(tmp_path) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VALETKEY_HOOK_SECRET": SECRET,
        "REPORTS_BROKER_URL": service.unused_database_url(5),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return GuideSandbox(tmp_path, {"HOME": str(tmp_path)} | variables)
