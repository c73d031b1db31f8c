"""Tenants try every operation on each other's data: it is refused, or has no effect.

A tenant signs its messages with its own key. After each test, the others' rows are unchanged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine

from models import Batch, Chunk, Delivery, Grant, MultipartUpload, Reservation, Usage
from tests.support.builders import services
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    batch_id,
    grant_message,
    multipart_message,
    parts_message,
)
from tests.support.crypto.tokens import sign_message, tenant_keys, unseal_result
from tests.support.features import needs
from tests.support.servers.databases import migrated_file
from valetkey.crypto.keys import PrivateKey, generate_key
from valetkey.signing.sigv4 import Target
from worker.aws import s3_clients
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.features import NAMES as FEATURE_NAMES
from worker.rules.tenant_config import Bucket, Tenant, TenantConfig, WebhookEndpoint

NAMES = ("t1", "t2", "t10", "t11")  # t1 is a prefix of t10, but t1/ is not
TERMS: list[dict[str, Any]] = [
    {"kind": "download", "expires_in": 60},
    {"kind": "upload", "expires_in": 60, "max_size": 10},
    {"kind": "put", "expires_in": 60, "max_size": 10},
    {"kind": "multipart", "expires_in": 60, "max_size": 10},
]


@dataclass(frozen=True)
class MatrixTenant:
    """A tenant with its key and its data.

    first_chunks are messages: the first of two chunks of several batches, so that each test can
    try to reach a batch of its own. sealed is the result of the first one, as it was sent. upload
    is the grant id of a multipart upload.
    """

    name: str
    key: PrivateKey
    first_chunks: list[dict[str, Any]]
    sealed: str
    upload: str

    @property
    def second_chunk(self) -> dict[str, Any]:
        """The chunk of the first batch that has not arrived."""
        return self.first_chunks[0] | {"chunk": 1, "items": [{"key": f"{self.name}/b"}]}

    @property
    def batch_ids(self) -> list[str]:
        return [message["batch"] for message in self.first_chunks]


class TenantMatrix:
    def __init__(self, engine: Engine) -> None:
        self.clock = Clock()
        self.service = services.build_service(engine, S3Clients(), self.clock)
        keys = {name: generate_key(f"{name}/main") for name in NAMES}
        self.service.apply(matrix_config(keys))
        self.tenants = [self._prepare(key) for key in keys.values()]

    def pairs(self) -> Iterator[tuple[MatrixTenant, MatrixTenant]]:
        return permutations(self.tenants, 2)

    def send(
        self, sender: MatrixTenant, message: dict[str, Any], key: PrivateKey | None = None
    ) -> dict[str, Any]:
        """Return the response to a message, signed by its sender or with another key."""
        return self.service.issue(sign_message(message, key or sender.key, self.clock()))

    def refusal_code(
        self, sender: MatrixTenant, message: dict[str, Any], key: PrivateKey | None = None
    ) -> str:
        """Return the code with which a message is refused; assert that nothing is issued."""
        outcome = self.send(sender, message, key)
        assert not any("url" in item for item in outcome["items"])
        return str(outcome["refusal"]["code"])

    def rows(self) -> list[list[Any]]:
        ids = {
            (tenant.name, batch_id)
            for tenant in self.tenants
            for batch_id in (*tenant.batch_ids, tenant.upload.removesuffix(".0"))
        }
        batches = [row for row in self.service.rows(Batch) if (row.tenant, row.batch_id) in ids]
        numbers = {row.batch_number for row in batches}
        tables = (Chunk, Grant, Reservation, MultipartUpload, Delivery)
        rows = [self.service.rows(table) for table in tables]
        return [batches, *([row for row in each if row.batch_number in numbers] for each in rows)]

    def used(self) -> dict[str, int]:
        """Return the number of grants charged today, by tenant."""
        rows = self.service.rows(Usage)
        return {row.tenant: row.grants for row in rows if row.window == "day"}

    def _prepare(self, key: PrivateKey) -> MatrixTenant:
        name = key.tenant
        messages = [first_chunk(name) for _ in range(4)]
        signed = [sign_message(message, key, self.clock()) for message in messages]
        sealed = [str(self.service.respond(token).sent) for token in signed]
        start = in_bucket(multipart_message([f"{name}/film"]) | {"tenant": name}, "common")
        upload = self.service.issue(sign_message(start, key, self.clock()))
        return MatrixTenant(name, key, messages, sealed[0], upload["items"][0]["id"])


def first_chunk(name: str) -> dict[str, Any]:
    """Return the first chunk of a new batch of two items."""
    batch = grant_message([f"{name}/a", f"{name}/b"], chunk_size=1, tenant=name)
    callback = {"callback": f"hook-{name}"} if "webhooks" in FEATURE_NAMES else {}
    return in_bucket(batch | {"items": batch["items"][:1]} | callback)


def in_bucket(message: dict[str, Any], bucket: str | None = None) -> dict[str, Any]:
    """Return a message for a bucket profile, by default the one of its tenant."""
    return message | {"grant": message["grant"] | {"bucket": bucket or f"of-{message['tenant']}"}}


def matrix_message(tenant: MatrixTenant, **changes: Any) -> dict[str, Any]:
    """Return a request for a download of a tenant in its own bucket profile, with changes."""
    return in_bucket(grant_message([f"{tenant.name}/a"], tenant=tenant.name, **changes))


def matrix_config(keys: dict[str, PrivateKey]) -> TenantConfig:
    """Return a config with a bucket profile for each tenant, and one with a prefix for each."""
    profiles = {f"of-{name}": replace(DEMO, name=f"of-{name}", bucket=name * 2) for name in keys}
    profiles["common"] = replace(DEMO, name="common")
    tenants = {name: configured_tenant(name, key) for name, key in keys.items()}
    return TenantConfig(profiles, tenants)


def configured_tenant(name: str, key: PrivateKey) -> Tenant:
    policy, hook = replace(POLICY, prefixes=(f"{name}/",)), f"hook-{name}"
    return Tenant(
        name,
        policies={bucket: replace(policy, bucket=bucket) for bucket in (f"of-{name}", "common")},
        endpoints={hook: WebhookEndpoint(hook, "https://example.com/", "env:HOOK")},
        keys=tenant_keys(key),
    )


OTHER_PREFIX = [  # spellings of an object key of another tenant
    "{other}/a",
    "{other}/../{other}/a",
    "{tenant}/../{other}/a",
    "{tenant}/./../{other}/a",
    "{tenant}//../{other}/a",
    "{tenant}/%2e%2e/{other}/a",
    "{tenant}/%252e%252e%252f{other}/a",
    "{tenant}/..%2f{other}/a",
    "{tenant}\\..\\{other}\\a",
    "{tenant}/\u2024\u2024/{other}\0",
    "/{other}/a",
    "{tenant}",
    "{tenant}{other}/a",
    "{tenant}0/a",
]
CANCEL = {"v": 1, "ask": "cancel", "requested_by": "tests"}


def find_target(bucket: Bucket, _endpoint: str | None) -> Target:
    return Target("http", "s3.test", f"/{bucket.bucket}/", "us-east-1", "s3")


@pytest.fixture(scope="module")
def shared_matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TenantMatrix]:
    url = migrated_file(tmp_path_factory.mktemp("apart") / "valetkey.db")
    engine = create_database_engine(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        # To find a target, boto3 takes as long as everything else together.
        patch.setattr(s3_clients, "find_target", find_target)
        started = {"UploadId": "upload", "ResponseMetadata": {"RetryAttempts": 0}}
        client = SimpleNamespace(create_multipart_upload=lambda **_: started)
        patch.setattr(S3Clients, "client", lambda *_: client)
        yield TenantMatrix(engine)
    engine.dispose()


@pytest.fixture
def matrix(shared_matrix: TenantMatrix) -> Iterator[TenantMatrix]:
    before = shared_matrix.rows()
    yield shared_matrix
    assert shared_matrix.rows() == before


def test_no_tenant_can_use_anothers_bucket_profile(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        for terms in TERMS:
            message = in_bucket(matrix_message(tenant, grant=terms), f"of-{other.name}")
            assert matrix.refusal_code(tenant, message) == "bucket_not_allowed"


def test_no_spelling_of_an_object_key_reaches_anothers_prefix(matrix: TenantMatrix) -> None:
    before = matrix.used()
    for terms in TERMS[:2]:
        for tenant in matrix.tenants:
            others = [other.name for other in matrix.tenants if other is not tenant]
            object_keys = [
                spelling.format(tenant=tenant.name, other=other)
                for spelling in OTHER_PREFIX
                for other in others
            ]
            message = grant_message(object_keys, tenant=tenant.name, grant=terms)
            outcome = matrix.send(tenant, in_bucket(message, "common"))
            assert [item["key"] for item in outcome["items"] if "url" in item] == []
    assert matrix.used() == before


def test_no_tenant_gets_parts_of_anothers_upload(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        parts = parts_message(other.upload, 1, key=f"{other.name}/film")
        message = in_bucket(parts | {"tenant": tenant.name}, "common")
        assert matrix.refusal_code(tenant, message) == "upload_unknown"


def test_no_tenant_continues_anothers_batch(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        message = other.second_chunk | {"tenant": tenant.name}
        assert matrix.refusal_code(tenant, message) == "bucket_not_allowed"


def test_anothers_batch_id_identifies_a_separate_batch(matrix: TenantMatrix) -> None:
    before = matrix.used()
    for tenant, other in matrix.pairs():
        message = matrix_message(tenant, batch=other.batch_ids[1])
        (grant,) = matrix.send(tenant, message)["items"]
        assert grant["id"] == f"{other.batch_ids[1]}.0"
        assert f"/{tenant.name * 2}/{tenant.name}/a?" in grant["url"]
    others = len(matrix.tenants) - 1
    assert matrix.used() == {name: used + others for name, used in before.items()}


@needs("webhooks")
def test_no_manifest_is_written_under_anothers_prefix(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        for object_key in (f"{other.name}/links.gz", f"{tenant.name}/../{other.name}/links.gz"):
            message = in_bucket(matrix_message(tenant, manifest=object_key), "common")
            code = matrix.refusal_code(tenant, message)
            assert code in {"key_outside_prefix", "key_traversal"}


def test_no_tenant_reopens_anothers_batch_or_reads_its_rows(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        reopen = {"v": 1, "ask": "batch", "tenant": tenant.name, "batch": other.batch_ids[3]}
        for chunk in ({}, {"chunk": 0}, {"chunk": 1}):
            assert matrix.refusal_code(tenant, reopen | chunk) == "batch_unknown"
            refusals = [
                matrix.send(tenant, reopen | chunk | {"batch": id_})["refusal"]
                for id_ in (other.batch_ids[3], batch_id())
            ]
            assert refusals[0] == refusals[1]


@needs("cancel")
def test_cancelling_anothers_batch_does_not_end_it(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        cancel = CANCEL | {"tenant": tenant.name, "batch": other.batch_ids[2]}
        response = matrix.send(tenant, cancel)
        assert (response["issued"], response["released"]) == (0, 0)


@needs("cancel")
@needs("explain")
def test_cancelling_a_batch_id_does_not_refuse_anothers_later_batch(matrix: TenantMatrix) -> None:
    batch_ids = {tenant.name: batch_id() for tenant in matrix.tenants}
    for tenant in matrix.tenants:
        cancel = CANCEL | {"tenant": tenant.name, "batch": batch_ids[tenant.name]}
        matrix.send(tenant, cancel)
    for number, (tenant, other) in enumerate(matrix.pairs()):
        ask = ("explain", "grants")[number % 2]
        message = matrix_message(other, batch=batch_ids[tenant.name], ask=ask)
        response = matrix.send(other, message)
        assert response["status"] == {"explain": "explained", "grants": "issued"}[ask]
        assert response.get("decision", "issue") == "issue"


@needs("explain")
def test_an_explanation_shows_nothing_of_another_tenant(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        message = matrix_message(tenant, ask="explain", batch=other.batch_ids[3])
        rules = matrix.send(tenant, message)["rules"]
        assert rules[1] == {"rule": "batch", "found": "not seen before"}


@needs("webhooks")
def test_no_tenant_can_call_back_anothers_endpoint(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        message = matrix_message(tenant, callback=f"hook-{other.name}")
        assert matrix.refusal_code(tenant, message) == "callback_unknown"


def test_no_tenant_can_send_a_message_for_another(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        cancel = CANCEL | {"batch": other.batch_ids[0]}
        usage = {"v": 1, "ask": "usage"}
        explain = other.second_chunk | {"ask": "explain"}
        reopen = {"v": 1, "ask": "batch", "batch": other.batch_ids[0]}
        forged_key = PrivateKey(other.key.id, tenant.key.signing_key, tenant.key.decryption_key)
        for content in (other.second_chunk, explain, cancel, usage, reopen, reopen | {"chunk": 0}):
            message = content | {"tenant": other.name}
            assert matrix.refusal_code(tenant, message) == "tenant_mismatch"
            assert matrix.refusal_code(tenant, message, forged_key) == "signature_invalid"
            assert matrix.service.refusal_code(message) == "signature_required"


def test_each_tenant_can_still_use_its_own_data(shared_matrix: TenantMatrix) -> None:
    matrix = shared_matrix  # whose uploads count granted parts
    for tenant in matrix.tenants:
        parts = parts_message(tenant.upload, 1, key=f"{tenant.name}/film")
        message = in_bucket(parts | {"tenant": tenant.name}, "common")
        assert matrix.send(tenant, message)["items"][0]["part"] == 1
        first = unseal_result(tenant.sealed, tenant.key)
        assert matrix.send(tenant, tenant.first_chunks[0])["items"] == first["items"]
