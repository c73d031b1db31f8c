"""The programs of examples/producers, which have nothing of ours, and the real service."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import KEY, ROOT, Service
from tests.support.s3 import chromium
from valetkey.crypto.keys import PrivateKey, dump_private_key, generate_key
from worker.core.auth import seal

PRODUCERS = ROOT / "examples" / "producers"

Asked = subprocess.CompletedProcess[str]
Ask = Callable[..., Asked]


@pytest.fixture(scope="module")
def node() -> str:
    found = chromium.node()
    if found is None or not (PRODUCERS / "node_modules").exists():
        missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        missing("there is no Node.js here, or `make browser` has not installed its packages")
    return found


@pytest.fixture(params=["signed.py", "signed.mjs"])
def ask(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Ask:
    """Ask for links to some keys by a program, as whoever has a private key."""
    path = PRODUCERS / request.param
    python = path.suffix == ".py"
    program = sys.executable if python else request.getfixturevalue("node")

    def asked(*keys: str, key: PrivateKey = KEY) -> Asked:
        (tmp_path / "key").write_text(dump_private_key(key))
        environ = {
            "PATH": os.environ["PATH"],
            "VALETKEY_KEY_FILE": str(tmp_path / "key"),
            "VALETKEY_BROKER_URL": service.up.running.broker_url,
            "VALETKEY_RESULT_URL": service.up.running.result_url,
        }
        command = [program, str(path), *keys]
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    return asked


def test_a_producer_prints_a_link_that_storage_knows_and_why_there_is_none(ask: Ask) -> None:
    done = ask("acme/none such", "globex/b")
    assert (done.returncode, done.stderr) == (0, "")
    granted, refused = done.stdout.splitlines()
    key, _, url = granted.rpartition(" ")
    assert key == "acme/none such"
    assert httpx.get(url, timeout=60).status_code == 404  # of a signature that is not genuine, 403
    assert refused == "globex/b refused: key_outside_prefix"


def test_a_producer_opens_an_answer_that_is_long_and_so_compressed(ask: Ask) -> None:
    keys = [f"acme/{number}" for number in range(30)]
    done = ask(*keys)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > seal._LONG
    links = [line.split(" ") for line in done.stdout.splitlines()]
    assert [key for key, url in links if f"/{key}?" in url and "X-Amz-Signature=" in url] == keys


def test_a_producer_with_a_key_that_is_not_the_declared_one_says_what_it_is_told(ask: Ask) -> None:
    done = ask("acme/a", key=generate_key(KEY.id))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("refused: signature_invalid: ")


def test_the_producers_have_nothing_of_ours() -> None:
    imported = re.compile(r"\b(?:import|from)\b\W+(?:valetkey|worker|models)\b")
    programs = sorted(PRODUCERS.glob("signed.*"))
    assert [path.suffix for path in programs] == [".mjs", ".py"]
    assert not [path for path in programs if imported.search(path.read_text(encoding="utf-8"))]


def test_the_lock_file_names_what_is_installed_and_no_host() -> None:
    lock = (PRODUCERS / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity"' in lock
    assert '"resolved"' not in lock
