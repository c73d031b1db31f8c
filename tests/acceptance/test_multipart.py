"""PUTs and multipart uploads to real storage: by the client, the command line and curl."""

import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import boto3
import pytest

from tests.acceptance.conftest import ROOT, Service
from valetkey import Code, Grant, StorageError, multipart_storage
from valetkey.cli.snippets import render_curl
from valetkey.multipart_upload import MultipartUploader

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
    info = service.stack.info
    return boto3.client(
        "s3",
        endpoint_url=info.s3_endpoint,
        region_name=info.s3_region,
        aws_access_key_id=info.s3_access_key,
        aws_secret_access_key=info.s3_secret_key,
    )


def put(url: str, headers: dict[str, str], body: bytes) -> int:
    all_headers = headers | {"content-length": str(len(body))}
    request = Request(url, body, all_headers, method="PUT")  # noqa: S310 - the service's URL
    try:
        with urlopen(request) as response:  # noqa: S310 - as above
            return int(response.status)
    except HTTPError as error:
        with error:
            return int(error.code)


def run_valetkey(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    info = service.stack.info
    environ = dict(os.environ) | {
        "VALETKEY_BROKER_URL": info.broker_url,
        "VALETKEY_RESULT_URL": info.result_url,
        "VALETKEY_TENANT": "acme",
    }
    program = "from valetkey.cli.main import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def run_shell(line: str, folder: Path) -> int:
    command = ["sh", "-c", line]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def test_the_command_line_uploads_a_file_of_three_parts(
    service: Service, s3: Any, film: Path
) -> None:
    arguments = ("acme/film.mp4", "--file", str(film), "--part-size", "5MiB", "--meta", "a=b")
    result = run_valetkey(service, "multipart", "demo", *arguments)
    assert result.returncode == 0
    assert result.stderr.startswith("stored 'acme/film.mp4': 12 MiB in 3 parts, in ")
    stored = s3.get_object(Bucket=BUCKET, Key="acme/film.mp4")
    assert stored["Body"].read() == CONTENT
    assert stored["Metadata"] == {"a": "b", "grant-id": result.stdout.strip()}
    assert stored["ETag"].endswith('-3"')


def test_each_part_accepts_only_its_own_length(service: Service) -> None:
    with service.client() as client:
        upload = client.multipart("demo", "acme/lengths", size=len(CONTENT), part_size=5 * MEBIBYTE)
        grants = [grant for grant in upload.parts(expires_in=60) if isinstance(grant, Grant)]
        lengths = [int(grant.headers["content-length"]) for grant in grants]
        assert lengths == [5 * MEBIBYTE, 5 * MEBIBYTE, 2 * MEBIBYTE]
        assert put(grants[2].url, {}, CONTENT[: 2 * MEBIBYTE + 1]) == 403
        multipart = upload.result().multipart
        assert multipart is not None
        multipart_storage.abort_upload(multipart.abort_url)


def test_an_aborted_upload_accepts_no_part_and_stores_nothing(
    service: Service, s3: Any, film: Path
) -> None:
    with service.client() as client:
        upload = client.multipart("demo", "acme/aborted", size=len(CONTENT))
        multipart = upload.result().multipart
        assert multipart is not None
        multipart_storage.abort_upload(multipart.abort_url)
        with pytest.raises(StorageError):
            MultipartUploader(upload, film, sleep=lambda _: None).run()
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="acme/aborted")
    assert listed["KeyCount"] == 0
    unfinished = s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert multipart.upload_id not in {entry["UploadId"] for entry in unfinished}


def test_parts_of_an_unknown_upload_are_refused(service: Service) -> None:
    with service.client() as client:
        grant = client.multipart("demo", "acme/mine", size=5).result()
        forged = replace(grant, id=f"{grant.id[:-1]}7")
        batch = client.parts("demo", forged)
        list(batch)
        assert batch.refusal is not None
        assert batch.refusal.code is Code.UPLOAD_UNKNOWN
        assert grant.multipart is not None
        multipart_storage.abort_upload(grant.multipart.abort_url)


def test_a_put_stores_exactly_the_granted_size_and_only_once(service: Service, s3: Any) -> None:
    with service.client() as client:
        grant = client.put("demo", "acme/put ü.txt", size=5, content_type="text/plain").result()
    assert put(grant.url, grant.headers, b"longer") == 403
    assert put(grant.url, grant.headers, b"hello") == 200
    assert put(grant.url, grant.headers, b"again") == 412
    stored = s3.get_object(Bucket=BUCKET, Key="acme/put ü.txt")
    assert (stored["Body"].read(), stored["ContentType"]) == (b"hello", "text/plain")
    assert stored["Metadata"] == {"grant-id": grant.id}


@needs_curl
def test_a_put_with_curl_stores_the_file_with_its_checksum(
    service: Service, s3: Any, film: Path
) -> None:
    options = ("--file", str(film), "--sha256", "--tag", "a=b c", "--curl")
    result = run_valetkey(service, "put", "demo", "acme/by curl.mp4", *options)
    assert run_shell(result.stdout, film.parent) == 0
    stored = s3.get_object(Bucket=BUCKET, Key="acme/by curl.mp4")
    assert stored["Body"].read() == CONTENT


@needs_curl
def test_a_put_with_curl_refuses_another_file_of_the_same_size(
    service: Service, s3: Any, film: Path
) -> None:
    result = run_valetkey(
        service, "put", "demo", "acme/other", "--file", str(film), "--sha256", "--curl"
    )
    film.write_bytes(CONTENT[:-1] + b"?")
    assert run_shell(result.stdout, film.parent) != 0
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="acme/other")["KeyCount"] == 0


@needs_curl
def test_a_head_with_curl_prints_headers_and_downloads_nothing(
    service: Service, tmp_path: Path
) -> None:
    with service.client() as client:
        stored = client.put("demo", "acme/head", size=5).result()
        assert put(stored.url, stored.headers, b"hello") == 200
        head = client.download("demo", "acme/head", method="HEAD").result()
    command = ["sh", "-c", render_curl(head)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "content-length: 5" in result.stdout.lower()
    assert list(tmp_path.iterdir()) == []


@needs_curl
def test_curl_alone_makes_a_multipart_upload(service: Service, s3: Any, tmp_path: Path) -> None:
    content = CONTENT[: 5 * MEBIBYTE + 1]
    with service.client() as client:
        upload = client.multipart("demo", "acme/curl", size=len(content), part_size=5 * MEBIBYTE)
        grants = [grant for grant in upload.parts() if isinstance(grant, Grant)]
        complete = upload.result()
    parts = ""
    for number, grant in enumerate(grants, 1):
        part = content[(number - 1) * 5 * MEBIBYTE : number * 5 * MEBIBYTE]
        (tmp_path / f"curl.part{number}").write_bytes(part)
        command = ["sh", "-c", render_curl(grant)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        lines = [line.partition(": ") for line in result.stdout.splitlines()]
        (etag,) = [value for name, _, value in lines if name.lower() == "etag"]
        parts += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>"
    (tmp_path / "parts.xml").write_text(body)
    assert run_shell(render_curl(complete), tmp_path) == 0
    assert s3.get_object(Bucket=BUCKET, Key="acme/curl")["Body"].read() == content
