"""The programs of examples/producers, which do not use this project's code, and the service."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import ACME_KEY, ROOT, Service
from tests.support.s3 import chromium
from tests.support.scope import skip_without
from valetkey.crypto.keys import PrivateKey, generate_key
from worker.issue import dispatch

PRODUCERS = ROOT / "examples" / "producers"

Completed = subprocess.CompletedProcess[str]
RunProgram = Callable[..., Completed]


@pytest.fixture(scope="module")
def node() -> str:
    node_path = chromium.node()
    if node_path is None or not (PRODUCERS / "node_modules").exists():
        skip_without("the producer in Node.js", "make browser")
    return node_path


@pytest.fixture(params=["signed.py", "signed.mjs"])
def run_program(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> RunProgram:
    """A function that runs one of the programs with object keys and a private key."""
    path = PRODUCERS / request.param
    python = path.suffix == ".py"
    program = sys.executable if python else request.getfixturevalue("node")

    def run(*keys: str, key: PrivateKey = ACME_KEY) -> Completed:
        return subprocess.run(
            [program, str(path), *keys],
            env=service.producer_environ(tmp_path, key),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_program_prints_a_valid_link_and_a_refusal(run_program: RunProgram) -> None:
    completed = run_program("acme/none such", "globex/b")
    assert (completed.returncode, completed.stderr) == (0, "")
    granted, refused = completed.stdout.splitlines()
    key, _, url = granted.rpartition(" ")
    assert key == "acme/none such"
    assert httpx.get(url, timeout=60).status_code == 404  # an invalid signature gives 403
    assert refused == "globex/b refused: key_outside_prefix"


def test_a_program_opens_a_long_and_therefore_compressed_result(run_program: RunProgram) -> None:
    keys = [f"acme/{number}" for number in range(30)]
    completed = run_program(*keys)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert len(completed.stdout) > dispatch._MIN_COMPRESSED_BYTES
    links = [line.split(" ") for line in completed.stdout.splitlines()]
    assert [key for key, url in links if f"/{key}?" in url and "X-Amz-Signature=" in url] == keys


def test_a_program_with_a_key_that_is_not_configured_prints_the_refusal(
    run_program: RunProgram,
) -> None:
    completed = run_program("acme/a", key=generate_key(ACME_KEY.id))
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr.startswith("refused: signature_invalid: ")


def test_the_programs_import_nothing_of_this_project() -> None:
    imported = re.compile(r"\b(?:import|from)\b\W+(?:valetkey|worker|models)\b")
    programs = sorted(PRODUCERS.glob("signed.*"))
    assert [path.suffix for path in programs] == [".mjs", ".py"]
    assert not [path for path in programs if imported.search(path.read_text(encoding="utf-8"))]
