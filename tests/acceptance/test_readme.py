"""What README.md tells a newcomer to type is typed here."""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT, Service

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
TOUR = README[README.index("## A tour") : README.index("## From a program")]
# The servers of the tour run already: the fixture's.
STEPS = [text for _, text in BLOCKS if text in TOUR and "worker dev" not in text]


@pytest.fixture
def checkout(service: Service, tmp_path: Path) -> Path:
    """A folder as a reader has it: the project, its .venv, and a running dev's data."""
    for name in ("worker", "models", "valetkey", "examples", "celeryconfig.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".valetkey").symlink_to(service.data)
    return tmp_path


def run(command: list[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder)} | environ
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture
def declared(service: Service) -> Iterator[None]:
    """What the service declares, once more after the tour has applied its own."""
    yield
    tenants = str(service.data.parent / "tenants.toml")
    command = [sys.executable, "-m", "worker", "apply", tenants, "--yes"]
    subprocess.run(command, cwd=ROOT, env=service.up.environ, capture_output=True, check=True)


@pytest.mark.skipif(not shutil.which("curl"), reason="the tour's reader has curl")
@pytest.mark.usefixtures("declared")
@pytest.mark.timeout(300)
def test_the_tour_does_what_it_says(checkout: Path) -> None:
    # The service here has a key and an endpoint more than the tour's, for which apply would ask.
    steps = "\n".join(STEPS).replace("apply tenants.toml", "apply tenants.toml --yes")
    done = run(["sh", "-c", steps], checkout)
    assert done.returncode == 0, done.stderr
    assert "hello\n" in done.stdout
    for code in ("expiry_too_long", "size_too_large", "key_outside_prefix"):
        assert code in done.stderr
    with (checkout / "links.csv").open(newline="") as links:
        assert sum(1 for row in csv.DictReader(links) if row["url"]) == 10_000
    assert "issued" in done.stdout


@pytest.mark.parametrize("program", PYTHON, ids=["client", "plain celery"])
def test_a_program_of_the_readme_runs(service: Service, checkout: Path, program: str) -> None:
    running = service.up.running
    urls = {"BROKER_URL": running.broker_url, "RESULT_URL": running.result_url}
    done = run([sys.executable, "-c", program], checkout, **urls)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(("http", "issued"))


def test_the_plain_producer_imports_nothing_of_ours() -> None:
    (plain,) = [program for program in PYTHON if "send_task" in program]
    assert not re.search(r"import (valetkey|worker|models)|from (valetkey|worker|models)", plain)
