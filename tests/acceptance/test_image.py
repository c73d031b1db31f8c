"""The files that the Dockerfile copies, run with only the packages of the lock file."""

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.compose.services import Image
from tests.support.docs.command_lines import ROOT

# Python as in the image: modules of packages that are not in the lock file cannot be imported.
RUN_WORKER = """
import runpy, sys
missing = frozenset(sys.argv.pop(1).split(","))
class MissingModuleFinder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"not in requirements.lock: {name}", name=name)
sys.meta_path.insert(0, MissingModuleFinder())
sys.argv[0] = "worker"
runpy.run_module("worker", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Image(tmp_path_factory.mktemp("image")).app


def missing_modules() -> set[str]:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    return {
        module
        for module, names in packages_distributions().items()
        if not locked & {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    } - {"valetkey"}


def run_worker(image: Path, *arguments: str) -> str:
    environ = {
        "PATH": os.environ["PATH"],
        "VALETKEY_DATABASE_URL": f"sqlite:///{image.parent / 'valetkey.db'}",
    }
    completed = subprocess.run(
        [sys.executable, "-c", RUN_WORKER, ",".join(sorted(missing_modules())), *arguments],
        cwd=image,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_the_image_contains_all_that_its_commands_need(image: Path) -> None:
    assert "up to date" in run_worker(image, "migrate")
    assert "Applied." in run_worker(
        image, "apply", str(ROOT / "examples" / "tenants.toml"), "--yes"
    )
    assert "acme" not in run_worker(image, "audit", "list")


def test_the_image_contains_all_that_the_worker_needs(image: Path) -> None:
    assert "--only" in run_worker(image, "run", "--help")
