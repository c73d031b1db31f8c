"""The site of the documentation: `make docs` builds it without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import valetkey
from tests.support.docs.command_lines import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--fail-on-warning", "--keep-going", "-c", "docs")
    command = [sys.executable, "-m", "sphinx", *options, "-d", f"{out}-trees", ".", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return out


def test_it_describes_each_public_name_of_the_client(site: Path) -> None:
    page = (site / "docs/reference/python.html").read_text(encoding="utf-8")
    described = set(re.findall(r'id="valetkey\.(\w+)"', page))
    assert set(valetkey.__all__) - described <= {"__version__"}


@pytest.mark.parametrize(
    ("page", "command"), [("valetkey", "valetkey-download"), ("worker", "python-m-worker-run")]
)
def test_it_describes_each_command_with_its_options(site: Path, page: str, command: str) -> None:
    text = (site / f"docs/reference/{page}.html").read_text(encoding="utf-8")
    assert f'id="{command}' in text


def test_a_search_needs_no_server(site: Path) -> None:
    assert "settlement" in (site / "searchindex.js").read_text(encoding="utf-8")
