"""docker-compose.yml as a whole: its services, with storage that workers reach only internally."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT
from tests.support.compose.stack import WORKERS, ComposeStack, running_compose
from tests.support.s3.http_requests import completion, get, post, put, send
from tests.support.servers.waiting import wait_until
from valetkey import Client, Grant
from valetkey.crypto.keys import dump_private_key, generate_key, public_key_line

BUCKET = "valetkey-demo"
CONTENT = b"x" * (5 * 1024**2 + 1)  # two parts


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    with running_compose(tmp_path_factory.mktemp("compose")) as stack:
        yield stack


@pytest.fixture
def client(compose: ComposeStack) -> Iterator[Client]:
    """A producer on the machine of the containers, which uses the published port of Redis."""
    with Client(compose.broker_url, tenant="acme", requested_by="tests") as client:
        yield client


def test_the_command_in_the_image_prints_a_link_with_the_public_address(
    compose: ComposeStack,
) -> None:
    compose.storage().put_object(Bucket=BUCKET, Key="acme/hello.txt", Body=b"hello")
    result = compose.run("valetkey", "download", "demo", "acme/hello.txt", VALETKEY_TENANT="acme")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{compose.public_endpoint}/{BUCKET}/acme/hello.txt?")
    with compose.published_storage():
        assert send(get(result.stdout.strip())).body == b"hello"


def test_a_form_uploads_from_the_machine_of_the_containers(
    compose: ComposeStack, client: Client
) -> None:
    grant = client.upload("demo", "acme/form.txt", max_size=100).result()
    with compose.published_storage():
        assert send(post(grant, b"hello")).is_success
    assert stored(compose, "acme/form.txt") == b"hello"


def test_a_multipart_upload_is_started_by_the_service_and_completed_from_outside(
    compose: ComposeStack, client: Client
) -> None:
    upload = client.multipart("demo", "acme/film.bin", size=len(CONTENT), part_size=5 * 1024**2)
    complete = upload.result()
    parts = [grant for grant in upload.parts() if isinstance(grant, Grant)]
    addresses = [grant.url for grant in (complete, *parts)]
    assert all(address.startswith(f"{compose.public_endpoint}/") for address in addresses)
    with compose.published_storage():
        contents = (CONTENT[: 5 * 1024**2], CONTENT[5 * 1024**2 :])
        etags = [
            send(put(grant, content)).headers["etag"]
            for grant, content in zip(parts, contents, strict=True)
        ]
        assert send(completion(complete, *etags)).is_success
    assert stored(compose, "acme/film.bin") == CONTENT


def test_a_multipart_upload_that_nobody_completes_is_aborted_by_the_service(
    compose: ComposeStack, client: Client
) -> None:
    impatient = client.with_options(min_left=0)  # it may end before it is read
    upload = impatient.multipart("demo", "acme/left.bin", size=9, expires_in=1).result()
    assert upload.multipart is not None
    assert upload.multipart.abort_url.startswith(f"{compose.public_endpoint}/")
    wait_until(lambda: "acme/left.bin" not in unfinished(compose), 60, "the upload is aborted")


def test_a_manifest_is_written_by_the_service_and_has_only_public_addresses(
    compose: ComposeStack, client: Client
) -> None:
    keys = [f"acme/{number}" for number in range(3)]
    batch = client.download_many("demo", keys, manifest="acme/all.jsonl.gz")
    link = batch.manifest(60).grant.url
    with compose.published_storage():
        text = gzip.decompress(send(get(link)).body).decode()
    urls = [json.loads(line)["url"] for line in text.splitlines()]
    assert [url.startswith(f"{compose.public_endpoint}/") for url in urls] == [True] * 3
    assert compose.internal_address not in link + text


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_of_another_container_does_not_pass_the_health_check(
    compose: ComposeStack, name: str
) -> None:
    assert compose.is_healthy(name)
    assert not compose.is_healthy(name, container="another")


def test_storage_is_tried_from_a_container_through_its_internal_address(
    compose: ComposeStack,
) -> None:
    result = compose.run("worker", "doctor", "--live", "demo", "--internal", "--yes", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    verdicts = {(row["grant"], row["check"]): row["verdict"] for row in rows}
    assert verdicts["put", "PUT"] == "ok"
    assert verdicts["multipart", "two parts, completed"] == "ok"
    assert "error" not in verdicts.values()


def test_doctor_says_in_a_container_that_the_public_address_is_out_of_reach(
    compose: ComposeStack,
) -> None:
    result = compose.run("worker", "doctor", "--live", "demo", "--yes", "--json")
    first = json.loads(result.stdout.splitlines()[0])
    assert first["note"] == "PUT: no response: Connection refused"
    assert "add --internal" in result.stderr


def test_tenants_come_from_a_file_of_the_user_and_are_applied_again(
    compose: ComposeStack, tmp_path: Path
) -> None:
    key = generate_key("vault/tests")
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(
        (ROOT / "examples" / "tenants.toml").read_text()
        + '[tenants.vault.allow.demo]\nprefixes = ["vault/"]\nkinds = ["download"]\n'
        + f"[tenants.vault.keys]\n{public_key_line(key)}\n"
    )
    applied = compose.run("apply", VALETKEY_TENANTS_FILE=str(tenants))
    assert "Applied." in applied.stdout, applied.stderr
    signed = {"VALETKEY_KEY": dump_private_key(key)}
    result = compose.run("valetkey", "download", "demo", "vault/1", **signed)
    assert (result.returncode, result.stderr) == (0, "")


def stored(compose: ComposeStack, key: str) -> bytes:
    content: bytes = compose.storage().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return content


def unfinished(compose: ComposeStack) -> set[str]:
    listing: dict[str, Any] = compose.storage().list_multipart_uploads(Bucket=BUCKET)
    return {upload["Key"] for upload in listing.get("Uploads", [])}
