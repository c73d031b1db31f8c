"""Multipart uploads from their grant to their end, on a real storage."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from models import MultipartUpload, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket, Quota, TenantConfig
from worker.db.engine import read_transaction
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.upkeep.abort_uploads import abort_expired

PART_SIZE = 5 * 1024**2
SIZE = 2 * PART_SIZE + 7
UNKNOWN_BATCH = "01932000-0000-7000-8000-000000000000"
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
    """A clock that starts at the current time, as storage checks it."""
    clock.time = datetime.now(UTC)
    return clock


@pytest.fixture
def service(
    engine: Engine, s3: S3Clients, real_clock: Clock, apply_config: ApplyConfig
) -> InProcessService:
    apply_config(config_with_bucket())
    return services.build_service(engine, s3, real_clock)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client


def config_with_bucket(*quotas: Quota) -> TenantConfig:
    policies = {"demo": replace(POLICY, max_size=2 * SIZE)}
    acme = tenant_config(*quotas, max_batch=100, policies=policies).tenants["acme"]
    return TenantConfig(
        {"demo": Bucket("demo", "multipart", "us-east-1", "path")},
        {"acme": acme, "globex": replace(acme, name="globex")},
    )


def start_message(key: str = "acme/film.mp4", **changes: Any) -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 2 * SIZE}
    request = grant_message([key], grant=terms | {"part_size": PART_SIZE} | changes)
    return request | {"items": [{"key": key, "size": SIZE}]}


def parts_message(grant: dict[str, Any], *numbers: int, **changes: Any) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": grant["id"]}
    request = grant_message([grant["key"]] * len(numbers), grant=terms)
    items = [{"key": grant["key"], "part": number} for number in numbers]
    return request | {"items": items} | changes


def upload_rows(engine: Engine) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(MultipartUpload)))


def charged(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.upload_bytes).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def unfinished_uploads(storage: Storage) -> list[str]:
    listing = storage.client().list_multipart_uploads(Bucket="multipart")
    return [upload["UploadId"] for upload in listing.get("Uploads", [])]


def put_part(http: httpx.Client, part: dict[str, Any]) -> str:
    start = (part["part"] - 1) * PART_SIZE
    body = CONTENT[start : start + int(part["headers"]["content-length"])]
    response = http.put(part["url"], content=body)
    assert response.is_success, response.text
    return response.headers["etag"]


def completion_body(etags: list[str]) -> bytes:
    root = ET.Element("CompleteMultipartUpload")
    for number, etag in enumerate(etags, 1):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = etag
    return ET.tostring(root)


def test_a_file_uploaded_in_parts_is_stored_whole_under_its_grant(
    service: InProcessService, storage: Storage, http: httpx.Client
) -> None:
    grant = service.issue(start_message())["items"][0]
    assert grant["multipart"]["part_count"] == 3
    requests = parts_message(grant, 1, 2), parts_message(grant, 3)
    parts = [part for request in requests for part in service.issue(request)["items"]]
    etags = [put_part(http, part) for part in parts]
    response = http.post(grant["url"], content=completion_body(etags))
    assert response.is_success, response.text
    stored = storage.client().get_object(Bucket="multipart", Key="acme/film.mp4")
    assert stored["Body"].read() == CONTENT
    assert stored["Metadata"]["grant-id"] == grant["id"]


def test_a_part_of_another_length_is_refused_by_storage(
    service: InProcessService, http: httpx.Client
) -> None:
    grant = service.issue(start_message())["items"][0]
    part = service.issue(parts_message(grant, 3))["items"][0]
    assert not http.put(part["url"], content=bytes(8)).is_success


def test_an_upload_is_charged_its_size_and_parts_are_not_charged(
    engine: Engine, service: InProcessService
) -> None:
    grant = service.issue(start_message())["items"][0]
    service.issue(parts_message(grant, 1, 2, 3))
    assert charged(engine) == SIZE


def test_a_request_delivered_again_does_not_call_storage(
    engine: Engine, service: InProcessService, s3: S3Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = start_message()
    first = service.issue(request)
    monkeypatch.setattr(s3, "client", None)
    assert service.issue(request) == first
    assert service.issue(request | {"reason": "another"})["refusal"]["code"] == "batch_conflict"
    assert len(upload_rows(engine)) == 1


def test_an_upload_of_a_cancelled_batch_is_not_started(
    service: InProcessService, s3: S3Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = start_message()
    cancel = {"v": 1, "ask": "cancel", "requested_by": "tests"}
    service.issue(cancel | {"tenant": "acme", "batch": request["batch"]})
    monkeypatch.setattr(s3, "client", None)
    assert service.issue(request)["refusal"]["code"] == "batch_closed"


def test_an_upload_refused_by_a_quota_is_aborted(
    service: InProcessService, apply_config: ApplyConfig, storage: Storage
) -> None:
    before = unfinished_uploads(storage)
    apply_config(config_with_bucket(Quota("upload_bytes", "day", SIZE - 1)))
    assert service.issue(start_message())["refusal"]["code"] == "quota_exceeded"
    assert unfinished_uploads(storage) == before


def test_parts_requested_again_are_signed_the_same(service: InProcessService) -> None:
    grant = service.issue(start_message())["items"][0]
    request = parts_message(grant, 2)
    assert service.issue(request) == service.issue(request)


def test_another_tenant_gets_no_parts(service: InProcessService) -> None:
    grant = service.issue(start_message())["items"][0]
    outcome = service.issue(parts_message(grant, 1, tenant="globex"))
    assert outcome["refusal"]["code"] == "upload_unknown"


@pytest.mark.parametrize(
    "grant_id", ["", "x", "x.0", "x.00", f"{UNKNOWN_BATCH}.0", f"{UNKNOWN_BATCH}.99999999999"]
)
def test_parts_of_an_unknown_upload_are_refused(service: InProcessService, grant_id: str) -> None:
    request = parts_message({"id": grant_id or ".", "key": "acme/a"}, 1)
    assert service.issue(request)["refusal"]["code"] == "upload_unknown"


def test_a_part_number_beyond_the_upload_is_refused(service: InProcessService) -> None:
    grant = service.issue(start_message())["items"][0]
    item = service.issue(parts_message(grant, 4))["items"][0]
    assert (item["code"], item["limit"]) == ("part_invalid", 3)


def test_a_part_with_another_object_key_is_refused(service: InProcessService) -> None:
    grant = service.issue(start_message())["items"][0]
    item = service.issue(parts_message(grant | {"key": "acme/other"}, 1))["items"][0]
    assert (item["code"], item["field"]) == ("part_invalid", "items[0].key")


def test_a_part_does_not_outlive_its_upload_and_says_that_storage_limits_it(
    service: InProcessService, real_clock: Clock
) -> None:
    grant = service.issue(start_message())["items"][0]
    real_clock.forward(minutes=9)
    part = service.issue(parts_message(grant, 1))["items"][0]
    assert (part["expires_at"], part["limited_by"]) == (grant["expires_at"], "provider")


def test_an_upload_whose_grant_has_expired_is_aborted(
    service: InProcessService, storage: Storage, real_clock: Clock
) -> None:
    grant = service.issue(start_message())["items"][0]
    assert abort_expired(service.context)["ended"] == 0
    real_clock.forward(minutes=10)
    assert abort_expired(service.context)["ended"] == 1
    assert grant["multipart"]["upload_id"] not in unfinished_uploads(storage)
    assert abort_expired(service.context)["ended"] == 0
    assert service.issue(parts_message(grant, 1))["refusal"]["code"] == "upload_unknown"


def test_an_upload_that_was_completed_is_only_closed(
    engine: Engine, service: InProcessService, http: httpx.Client, real_clock: Clock
) -> None:
    grant = service.issue(start_message())["items"][0]
    etags = [put_part(http, part) for part in service.issue(parts_message(grant, 1, 2, 3))["items"]]
    http.post(grant["url"], content=completion_body(etags))
    real_clock.forward(minutes=10)
    assert abort_expired(service.context)["ended"] == 1
    assert {upload.state for upload in upload_rows(engine)} == {"closed"}
