"""A multipart upload from its grant to its end, on a real storage."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from models import Multipart, Usage
from tests.integration.conftest import Declare
from tests.support.builders import services
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket, Quota, TenantConfig
from worker.db.engine import read_transaction
from worker.db.ledger import Ledger
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.cleanup import Cleanup

PART = 5 * 1024**2
SIZE = 2 * PART + 7
NOBODYS = "01932000-0000-7000-8000-000000000000"
CONTENT = bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256)


@pytest.fixture(scope="module")
def storage(seaweed: Storage) -> Iterator[Storage]:
    create_buckets(seaweed.client(), {"multipart"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
        yield seaweed


@pytest.fixture(scope="module")
def s3(storage: Storage) -> S3Clients:
    return S3Clients(storage.endpoint)


@pytest.fixture
def real_clock(clock: Clock) -> Clock:
    """Storage looks at its own clock: ours must begin there."""
    clock.time = datetime.now(UTC)
    return clock


@pytest.fixture
def storing(engine: Engine, s3: S3Clients, real_clock: Clock, declare: Declare) -> InProcessService:
    declare(somewhere())
    return services.build_service(engine, s3, real_clock)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client


def somewhere(*quotas: Quota) -> TenantConfig:
    known = tenant_config(*quotas, max_batch=100)
    policy = replace(known.tenants["acme"].policies["demo"], max_size=2 * SIZE)
    tenant = replace(known.tenants["acme"], policies={"demo": policy})
    other = replace(tenant, name="globex")
    return TenantConfig(
        {"demo": Bucket("demo", "multipart", "us-east-1", "path")},
        {"acme": tenant, "globex": other},
    )


def beginning(key: str = "acme/film.mp4", **changes: Any) -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 2 * SIZE}
    request = grant_message([key], grant=terms | {"part_size": PART} | changes)
    return request | {"items": [{"key": key, "size": SIZE}]}


def parts(grant: dict[str, Any], *numbers: int, **changes: Any) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": grant["id"]}
    request = grant_message([grant["key"]] * len(numbers), grant=terms)
    items = [{"key": grant["key"], "part": number} for number in numbers]
    return request | {"items": items} | changes


def uploads(engine: Engine) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(Multipart)))


def charged(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.upload_bytes).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def unfinished(storage: Storage) -> list[str]:
    listing = storage.client().list_multipart_uploads(Bucket="multipart")
    return [upload["UploadId"] for upload in listing.get("Uploads", [])]


def put(http: httpx.Client, part: dict[str, Any]) -> str:
    first = (part["part"] - 1) * PART
    body = CONTENT[first : first + int(part["headers"]["content-length"])]
    answer = http.put(part["url"], content=body)
    assert answer.is_success, answer.text
    return answer.headers["etag"]


def completion(tags: list[str]) -> bytes:
    root = ET.Element("CompleteMultipartUpload")
    for number, tag in enumerate(tags, 1):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = tag
    return ET.tostring(root)


def test_a_file_uploaded_in_parts_is_stored_whole_under_its_grant(
    storing: InProcessService, storage: Storage, http: httpx.Client
) -> None:
    grant = storing.issue(beginning())["items"][0]
    assert grant["multipart"]["part_count"] == 3
    urls = storing.issue(parts(grant, 1, 2))["items"] + storing.issue(parts(grant, 3))["items"]
    answer = http.post(grant["url"], content=completion([put(http, url) for url in urls]))
    assert answer.is_success, answer.text
    stored = storage.client().get_object(Bucket="multipart", Key="acme/film.mp4")
    assert stored["Body"].read() == CONTENT
    assert stored["Metadata"]["grant-id"] == grant["id"]


def test_a_part_of_another_length_is_refused_by_storage(
    storing: InProcessService, http: httpx.Client
) -> None:
    grant = storing.issue(beginning())["items"][0]
    part = storing.issue(parts(grant, 3))["items"][0]
    assert not http.put(part["url"], content=bytes(8)).is_success


def test_an_upload_is_charged_its_size_and_its_parts_nothing(
    engine: Engine, storing: InProcessService
) -> None:
    grant = storing.issue(beginning())["items"][0]
    storing.issue(parts(grant, 1, 2, 3))
    assert charged(engine) == SIZE


def test_a_request_delivered_again_asks_nothing_of_storage(
    engine: Engine, storing: InProcessService, s3: S3Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = beginning()
    first = storing.issue(request)
    monkeypatch.setattr(s3, "client", None)
    assert storing.issue(request) == first
    assert storing.issue(request | {"reason": "another"})["refusal"]["code"] == "batch_conflict"
    assert len(uploads(engine)) == 1


def test_an_upload_of_a_batch_that_was_cancelled_is_not_begun(
    storing: InProcessService, s3: S3Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = beginning()
    cancel = {"v": 1, "ask": "cancel", "requested_by": "tests"}
    storing.issue(cancel | {"tenant": "acme", "batch": request["batch"]})
    monkeypatch.setattr(s3, "client", None)
    assert storing.issue(request)["refusal"]["code"] == "batch_closed"


def test_an_upload_refused_for_its_quota_is_not_left_at_storage(
    storing: InProcessService, declare: Declare, storage: Storage
) -> None:
    before = unfinished(storage)
    declare(somewhere(Quota("upload_bytes", "day", SIZE - 1)))
    assert storing.issue(beginning())["refusal"]["code"] == "quota_exceeded"
    assert unfinished(storage) == before


def test_parts_asked_for_again_are_answered_alike(storing: InProcessService) -> None:
    grant = storing.issue(beginning())["items"][0]
    request = parts(grant, 2)
    assert storing.issue(request) == storing.issue(request)


def test_another_tenant_gets_no_parts(storing: InProcessService) -> None:
    grant = storing.issue(beginning())["items"][0]
    stolen = storing.issue(parts(grant, 1, tenant="globex"))
    assert stolen["refusal"]["code"] == "upload_unknown"


@pytest.mark.parametrize("of", ["", "x", "x.0", "x.00", f"{NOBODYS}.0", f"{NOBODYS}.99999999999"])
def test_parts_of_no_upload_are_refused(storing: InProcessService, of: str) -> None:
    request = parts({"id": of or ".", "key": "acme/a"}, 1)
    assert storing.issue(request)["refusal"]["code"] == "upload_unknown"


def test_a_part_that_the_upload_has_not_is_refused(storing: InProcessService) -> None:
    grant = storing.issue(beginning())["items"][0]
    item = storing.issue(parts(grant, 4))["items"][0]
    assert (item["code"], item["limit"]) == ("part_invalid", 3)


def test_a_part_of_another_key_is_refused(storing: InProcessService) -> None:
    grant = storing.issue(beginning())["items"][0]
    item = storing.issue(parts(grant | {"key": "acme/other"}, 1))["items"][0]
    assert (item["code"], item["field"]) == ("part_invalid", "items[0].key")


def test_a_part_lives_no_longer_than_its_upload(
    storing: InProcessService, real_clock: Clock
) -> None:
    grant = storing.issue(beginning())["items"][0]
    real_clock.forward(minutes=9)
    part = storing.issue(parts(grant, 1))["items"][0]
    assert part["expires_at"] <= grant["expires_at"]


def test_an_upload_whose_grant_ended_is_aborted_by_the_sweep(
    engine: Engine, storing: InProcessService, s3: S3Clients, storage: Storage, real_clock: Clock
) -> None:
    grant = storing.issue(beginning())["items"][0]
    upkeep = Cleanup(services.build_uploads(engine, s3), Ledger(engine), real_clock)
    assert upkeep.sweep()["ended"] == 0
    real_clock.forward(minutes=10)
    assert upkeep.sweep()["ended"] == 1
    assert grant["multipart"]["upload_id"] not in unfinished(storage)
    assert upkeep.sweep()["ended"] == 0
    assert storing.issue(parts(grant, 1))["refusal"]["code"] == "upload_unknown"


def test_an_upload_that_was_completed_is_only_closed_by_the_sweep(
    engine: Engine, storing: InProcessService, s3: S3Clients, http: httpx.Client, real_clock: Clock
) -> None:
    grant = storing.issue(beginning())["items"][0]
    tags = [put(http, part) for part in storing.issue(parts(grant, 1, 2, 3))["items"]]
    http.post(grant["url"], content=completion(tags))
    real_clock.forward(minutes=10)
    assert (
        Cleanup(services.build_uploads(engine, s3), Ledger(engine), real_clock).sweep()["ended"]
        == 1
    )
    assert {upload.state for upload in uploads(engine)} == {"closed"}
