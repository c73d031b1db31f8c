"""The generated snippets are run: by a shell with curl, and by Node."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import grants
from tests.support.builders.grants import BREAKING_OUT, ODD
from tests.support.fakes.http_storage import (
    HttpStorage,
    StorageResponse,
    StoredRequest,
    running_http_storage,
)
from tests.support.s3 import chromium
from tests.support.scope import skip_without
from valetkey.cli.snippets import render_curl, render_javascript
from valetkey.wire.replies import Grant

FILE = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"  # how a JPEG begins
TARGET = "/a/../b?a=1&b=[2]&c={d,e}"
COMPLETED = b"<CompleteMultipartUploadResult/>"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpStorage]:
    monkeypatch.chdir(tmp_path)
    with running_http_storage(
        lambda _: StorageResponse(200, {"ETag": '"e-1"'}, COMPLETED)
    ) as server:
        yield server


def redirect_grant(grant: Grant, storage: HttpStorage) -> Grant:
    """Return the same grant with the URLs of this storage."""
    upload = grant.multipart and grant.multipart.model_copy(
        update={"abort_url": f"{storage.url}/abort"}
    )
    return replace(grant, url=storage.url + TARGET, multipart=upload)


def run_shell(line: str) -> str:
    process = subprocess.run(["sh", "-c", line], check=True, capture_output=True)  # noqa: S607 - any sh
    return process.stdout.decode()


def run_node(program: str) -> str:
    node = chromium.node()
    if node is None:
        skip_without("scripts in Node.js", "make browser")
    command = [node, "--input-type=module", "--eval", program]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def form_fields(request: StoredRequest) -> list[tuple[str, str | None, bytes]]:
    """The parts of a form: name, file name and content, in order."""
    header = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts: Any = BytesParser().parsebytes(header + request.body).get_payload()
    return [_form_field(part) for part in parts]


def _form_field(part: Message) -> tuple[str, str | None, bytes]:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    name = part.get_param("name", header="content-disposition")
    return str(name), part.get_filename(), content


@needs_curl
def test_curl_sends_a_form_with_any_file_under_any_key(storage: HttpStorage) -> None:
    Path(ODD).write_bytes(FILE)
    grant = redirect_grant(grants.form(f"in/{ODD}", **{"x-amz-meta-a": f"@{ODD}"}), storage)
    assert run_shell(render_curl(grant)).endswith("stored\n")
    *sent, (name, _, content) = form_fields(storage.received[0])
    assert {field: value.decode() for field, _, value in sent} == grant.fields
    assert (name, content) == ("file", FILE)


@needs_curl
@pytest.mark.skipif(shutil.which("file") is None, reason="file is not installed")
def test_curl_sends_the_files_own_type_where_the_form_leaves_it_open(storage: HttpStorage) -> None:
    Path(ODD).write_bytes(FILE)
    run_shell(render_curl(redirect_grant(grants.form(ODD, type_prefix="image/"), storage)))
    *_, (name, _, content), _ = form_fields(storage.received[0])
    assert (name, content) == ("Content-Type", b"image/jpeg")


@needs_curl
def test_curl_puts_any_file_with_any_header_and_its_own_length(storage: HttpStorage) -> None:
    Path(ODD).write_bytes(FILE)
    headers = {"content-type": "image/jpeg", "x-amz-tagging": BREAKING_OUT[:-1], "x-empty": ""}
    command = render_curl(redirect_grant(grants.put(ODD, headers=headers), storage))
    assert run_shell(command).endswith("stored\n")
    request = storage.received[0]
    assert (request.method, request.target, request.body) == ("PUT", TARGET, FILE)
    sent = {name: request.headers[name].encode("latin-1").decode() for name in headers}
    assert sent == headers
    assert request.headers["content-length"] == str(len(FILE))
    assert "transfer-encoding" not in request.headers


@needs_curl
def test_curl_prints_what_storage_says_against_a_file_and_not_that_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(ODD).write_bytes(FILE)
    refusal = b"<Error><Code>AccessDenied</Code></Error>"
    with running_http_storage(lambda _: StorageResponse(403, {}, refusal)) as server:
        command = ["sh", "-c", render_curl(redirect_grant(grants.put(ODD), server))]
        completed = subprocess.run(command, check=False, capture_output=True)
    assert (completed.returncode, completed.stdout) == (22, refusal)


def test_fetch_sends_a_form(storage: HttpStorage) -> None:
    grant = redirect_grant(grants.form(BREAKING_OUT, type_prefix="image/", acl="a\nb"), storage)
    file = 'new File(["\\x41"], "a.png", { type: "image/png" })'
    run_node(f"{render_javascript(grant)}\nawait upload({file});")
    *sent, (name, _, content) = form_fields(storage.received[0])
    fields = {field: value.decode().replace("\r\n", "\n") for field, _, value in sent}
    assert fields == {**grant.fields, "Content-Type": "image/png"}
    assert (name, content) == ("file", b"A")


@pytest.mark.parametrize(
    ("grant", "message"),
    [
        (grants.form(type_prefix="image/"), "the file is not image/*"),
        (grants.put(size=5), "this takes a file of exactly 5 bytes"),
    ],
)
def test_fetch_refuses_a_wrong_file_before_it_is_sent(
    storage: HttpStorage, grant: Grant, message: str
) -> None:
    file = 'new Blob(["A"], { type: "text/html" })'
    call = f"await upload({file}).catch((e) => console.log(e.message))"
    output = run_node(f"{render_javascript(redirect_grant(grant, storage))}\n{call}")
    assert output == f"{message}\n"
    assert storage.received == []


def test_fetch_puts_with_the_headers_that_are_signed_and_no_type_of_its_own(
    storage: HttpStorage,
) -> None:
    headers = {"if-none-match": "*", "x-amz-meta-a": "</script>&amp;"}
    grant = redirect_grant(grants.put(headers=headers, size=1), storage)
    run_node(f'{render_javascript(grant)}\nawait upload(new Blob(["A"], {{ type: "image/png" }}));')
    request = storage.received[0]
    assert (request.method, request.body) == ("PUT", b"A")
    assert {name: request.headers[name] for name in headers} == headers
    assert "content-type" not in request.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_fetch_reads_an_object(storage: HttpStorage, method: str) -> None:
    grant = redirect_grant(grants.grant(method=method, headers={"x-owner": "1"}), storage)
    output = run_node(
        f"{render_javascript(grant)}\nconsole.log((await download()).headers.get('etag'));"
    )
    assert (output, storage.received[0].method) == ('"e-1"\n', method)
    assert storage.received[0].headers["x-owner"] == "1"


def test_fetch_completes_a_multipart_upload(storage: HttpStorage) -> None:
    program = render_javascript(redirect_grant(grants.multipart(), storage))
    run_node(f"{program}\nawait complete(['\"a\"', '\"b\"']);")
    assert storage.received[0].body.decode() == (
        '<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"a"</ETag></Part>'
        '<Part><PartNumber>2</PartNumber><ETag>"b"</ETag></Part></CompleteMultipartUpload>'
    )


def test_fetch_reports_an_error_with_status_200() -> None:
    error = b"<Error><Code>InternalError</Code></Error>"
    with running_http_storage(lambda _: StorageResponse(200, {}, error)) as storage:
        program = render_javascript(redirect_grant(grants.multipart(), storage))
        output = run_node(f"{program}\nawait complete(['a']).catch((e) => console.log(e.message));")
    assert output == "storage refused: 200 InternalError\n"


def test_fetch_aborts_a_multipart_upload(storage: HttpStorage) -> None:
    run_node(f"{render_javascript(redirect_grant(grants.multipart(), storage))}\nawait abort();")
    assert [(request.method, request.target) for request in storage.received] == [
        ("DELETE", "/abort")
    ]
