"""The command that `--curl` writes, used for real uploads."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.contract.clients.conftest import FILE, odd_key
from tests.support.s3.stores import Store, new_key
from valetkey.cli import snippets


@pytest.fixture(scope="session")
def curl() -> str:
    curl_path = shutil.which("curl")
    if curl_path is None:
        pytest.skip("curl is not installed")  # also in CI: no package registry provides curl
    return curl_path


def test_curl_uploads_by_the_line(store: Store, curl: str, picture: Path) -> None:
    grant = store.upload(odd_key(new_key()))
    command = snippets.render_curl(grant, str(picture)).replace("curl", curl, 1)
    completed = subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True)
    assert completed.stdout.endswith(b"stored\n")
    assert store.get_object(grant.key)["Body"] == FILE
    assert store.get_object(grant.key)["ContentType"] == "image/png"


def test_curl_says_that_a_file_is_too_large(store: Store, curl: str, picture: Path) -> None:
    picture.write_bytes(bytes(101))
    grant = store.upload(new_key())
    command = snippets.render_curl(grant, str(picture)).replace("curl", curl, 1)
    completed = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True)
    assert completed.returncode == 22
    assert b"EntityTooLarge" in completed.stdout
    assert b"stored\n" not in completed.stdout
    assert not store.has_object(grant.key)
