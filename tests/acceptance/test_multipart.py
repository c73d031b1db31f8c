"""PUTs and multipart uploads to real storage: by the client, the command line and curl."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.acceptance.conftest import Service, storage_client
from tests.support.s3.http_requests import completion_body
from tests.support.servers.programs import Completed, run_program
from valetkey import Grant
from valetkey.cli.main import main
from valetkey.cli.snippets import render_curl

MEBIBYTE = 1024**2
CONTENT = random.Random(5).randbytes(12 * MEBIBYTE)
BUCKET = "valetkey-demo"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "it's a film.mp4"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def s3(service: Service) -> Any:
    return storage_client(service.stack)


def run_valetkey(service: Service, *arguments: str) -> Result:
    info = service.stack.info
    environ = {
        "VALETKEY_BROKER_URL": info.broker_url,
        "VALETKEY_RESULT_URL": info.result_url,
        "VALETKEY_TENANT": "acme",
    }
    return CliRunner().invoke(main, arguments, env=environ)


def run_shell(line: str, folder: Path) -> Completed:
    return run_program(["sh", "-c", line], cwd=folder)


def test_the_command_line_uploads_a_file_of_three_parts(
    service: Service, s3: Any, film: Path
) -> None:
    arguments = ("acme/film.mp4", "--file", str(film), "--part-size", "5MiB", "--meta", "a=b")
    result = run_valetkey(service, "multipart", "demo", *arguments)
    assert result.exit_code == 0
    assert result.stderr.startswith("stored 'acme/film.mp4': 12 MiB in 3 parts, in ")
    stored = s3.get_object(Bucket=BUCKET, Key="acme/film.mp4")
    assert stored["Body"].read() == CONTENT
    assert stored["Metadata"] == {"a": "b", "grant-id": result.stdout.strip()}
    assert stored["ETag"].endswith('-3"')


@needs_curl
def test_a_put_with_curl_stores_the_file_with_its_checksum(
    service: Service, s3: Any, film: Path
) -> None:
    options = ("--file", str(film), "--sha256", "--tag", "a=b c", "--curl")
    result = run_valetkey(service, "put", "demo", "acme/by curl.mp4", *options)
    assert run_shell(result.stdout, film.parent).returncode == 0
    stored = s3.get_object(Bucket=BUCKET, Key="acme/by curl.mp4")
    assert stored["Body"].read() == CONTENT


@needs_curl
def test_curl_alone_makes_a_multipart_upload(service: Service, s3: Any, tmp_path: Path) -> None:
    content = CONTENT[: 5 * MEBIBYTE + 1]
    with service.client() as client:
        upload = client.multipart("demo", "acme/curl", size=len(content), part_size=5 * MEBIBYTE)
        grants = [grant for grant in upload.parts() if isinstance(grant, Grant)]
        complete = upload.result()
    etags = []
    for number, grant in enumerate(grants, 1):
        part = content[(number - 1) * 5 * MEBIBYTE : number * 5 * MEBIBYTE]
        (tmp_path / f"curl.part{number}").write_bytes(part)
        output = run_shell(render_curl(grant), tmp_path).stdout
        lines = [line.partition(": ") for line in output.splitlines()]
        etags += [value for name, _, value in lines if name.lower() == "etag"]
    (tmp_path / "parts.xml").write_bytes(completion_body(*etags))
    assert run_shell(render_curl(complete), tmp_path).returncode == 0
    assert s3.get_object(Bucket=BUCKET, Key="acme/curl")["Body"].read() == content
