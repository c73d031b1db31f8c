"""Twenty tenants try every operation on each other's data: it is refused, or has no effect.

A tenant signs its messages with its own key. After each test, the others' rows are unchanged.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from sqlalchemy import event

from tests.support.builders.messages import batch_id, grant_message
from tests.support.crypto.tokens import sign_message, unseal_result
from tests.support.quota_model.tenant_matrix import TERMS, TenantMatrix, in_bucket, matrix_message
from tests.support.servers.databases import migrated_file
from valetkey.crypto.jose import InvalidToken, recipient_key_id, unseal
from valetkey.crypto.keys import PrivateKey
from worker.aws import clients
from worker.aws.boto_clients import SigningMethod
from worker.aws.clients import S3Clients
from worker.core.signing.sigv4 import Target
from worker.core.signing.urls import UrlSigner
from worker.core.tenants.config import Bucket
from worker.db.engine import create_database_engine

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


def find_signing_method(bucket: Bucket, _endpoint: str | None) -> SigningMethod:
    target = Target("http", "s3.test", f"/{bucket.bucket}/", "us-east-1", "s3")
    return SigningMethod(target, UrlSigner)


@pytest.fixture(scope="module")
def shared_matrix(
    tmp_path_factory: pytest.TempPathFactory,
    record_testsuite_property: Callable[[str, object], None],
) -> Iterator[TenantMatrix]:
    url = migrated_file(tmp_path_factory.mktemp("apart") / "valetkey.db")
    engine = create_database_engine(url)
    # These tests check decisions: their thousands of commits do not have to be durable.
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        # To find a target, boto3 takes as long as everything else together.
        patch.setattr(clients, "find_signing_method", find_signing_method)
        client = SimpleNamespace(
            create_multipart_upload=lambda **_: {
                "UploadId": "upload",
                "ResponseMetadata": {"RetryAttempts": 0},
            }
        )
        patch.setattr(S3Clients, "client", lambda *_: client)
        matrix = TenantMatrix(engine)
        yield matrix
    record_testsuite_property("operations tried on another tenant", matrix.operations)
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
            matrix.operations += len(object_keys) - 1
            assert [item["key"] for item in outcome["items"] if "url" in item] == []
    assert matrix.used() == before


def test_no_tenant_gets_parts_of_anothers_upload(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        parts = {"kind": "parts", "expires_in": 60, "of": other.upload}
        items = [{"key": f"{other.name}/film", "part": 1}]
        message = in_bucket(matrix_message(tenant, grant=parts, items=items), "common")
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


def test_cancelling_anothers_batch_does_not_end_it(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        cancel = CANCEL | {"tenant": tenant.name, "batch": other.batch_ids[2]}
        response = matrix.send(tenant, cancel)
        assert (response["issued"], response["released"]) == (0, 0)


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


def test_an_explanation_shows_nothing_of_another_tenant(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        message = matrix_message(tenant, ask="explain", batch=other.batch_ids[3])
        rules = matrix.send(tenant, message)["rules"]
        assert rules[1] == {"rule": "batch", "found": "not seen before"}


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
            assert matrix.send_raw(message)["refusal"]["code"] == "signature_required"


def test_a_captured_token_cannot_be_given_another_key_or_content(matrix: TenantMatrix) -> None:
    for tenant, other in matrix.pairs():
        header, payload, signature = other.token.split(".")
        message = other.second_chunk | {"tenant": tenant.name}
        own_header, own_payload, _ = sign_message(message, tenant.key, matrix.clock()).split(".")
        for parts in ((own_header, payload, signature), (header, own_payload, signature)):
            outcome = matrix.send_raw(".".join(parts))
            assert outcome["refusal"]["code"] == "signature_invalid"


def test_the_response_to_a_replayed_token_is_sealed_to_its_owner(matrix: TenantMatrix) -> None:
    replayed = {tenant.name: matrix.service.respond(tenant.token).sent for tenant in matrix.tenants}
    for tenant, other in matrix.pairs():
        matrix.operations += 2
        for sealed in (str(replayed[other.name]), other.sealed):
            assert recipient_key_id(sealed) == other.key.id
            with pytest.raises(InvalidToken):
                unseal(sealed, tenant.key)


def test_each_tenant_can_still_use_its_own_data(matrix: TenantMatrix) -> None:
    for tenant in matrix.tenants:
        parts = {"kind": "parts", "expires_in": 60, "of": tenant.upload}
        items = [{"key": f"{tenant.name}/film", "part": 1}]
        message = in_bucket(matrix_message(tenant, grant=parts, items=items), "common")
        assert matrix.send(tenant, message)["items"][0]["part"] == 1
        first = unseal_result(tenant.sealed, tenant.key)
        assert matrix.send(tenant, tenant.first_chunks[0])["items"] == first["items"]
