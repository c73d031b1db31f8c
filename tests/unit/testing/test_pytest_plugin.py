"""The plugin of pytest: its fixture, and what it costs those who do not use it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "producers.md").read_text(encoding="utf-8")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("VALETKEY")}
    environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_of_the_guide_passes(tmp_path: Path) -> None:
    for name in ("statements.py", "test_statements.py"):
        program = GUIDE.partition(f"```python\n# {name}\n")[2].partition("```")[0]
        (tmp_path / name).write_text(program)
    options = ["-p", "valetkey.pytest_plugin", "-W", "error", "-q", "-p", "no:cacheprovider"]
    result = run(tmp_path, "-m", "pytest", *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout


def test_the_plugin_loads_no_library_of_the_client(tmp_path: Path) -> None:
    program = (
        "import pytest, sys, valetkey.pytest_plugin\n"
        "print({'celery', 'kombu', 'pydantic', 'redis'} & sys.modules.keys())"
    )
    assert run(tmp_path, "-c", program).stdout == "set()\n"


def test_the_wheel_registers_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"valetkey": "valetkey.pytest_plugin"}
    assert not any("pytest" in dependency for dependency in project["dependencies"])
