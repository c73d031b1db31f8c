"""Role sessions of a real STS: which objects they can access, and their caching and renewal."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.integration.revoke.sessions.conftest import EXTERNAL_ID, HOUR, RoleSessions
from tests.support.builders.messages import grant_message
from valetkey.signing.sigv4 import Credentials, FormSigner, UrlSigner
from worker.aborts.multipart_aborts import abort_expired_uploads
from worker.aws import object_calls
from worker.errors import Malformed, StorageSilent
from worker.shared.limited_sessions import cleanup_session

PREFIXES = ("acme/",)

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def credentials(
    sessions: RoleSessions,
    tenant: str = "acme",
    prefixes: tuple[str, ...] = PREFIXES,
    after: timedelta = timedelta(0),
) -> Credentials:
    now = sessions.clock() + after
    return sessions.context.s3.credentials(sessions.profile, tenant, prefixes, now, HOUR)


def sent(
    sessions: RoleSessions, method: str, key: str, prefixes: tuple[str, ...] = PREFIXES
) -> int:
    """Return storage's status for a URL, or a form, signed for a key without any check of it."""
    signed = credentials(sessions, prefixes=prefixes), sessions.context.s3.target(sessions.profile)
    times: dict[str, Any] = {"issued_at": sessions.clock(), "expires_in": 600}
    if method != "POST":
        url = UrlSigner(*signed, method=method, **times).sign(key).url
        return httpx.request(method, url, timeout=60).status_code
    form = FormSigner(*signed, bucket=sessions.role.name, **times).sign(key)
    files = {"file": b"x"}
    return httpx.post(form.url, data=form.fields, files=files, timeout=60).status_code


def test_what_a_session_signs_reaches_the_tenants_objects(sessions: RoleSessions) -> None:
    assert sent(sessions, "POST", "acme/form") == 204
    assert sent(sessions, "PUT", "acme/put") == 200
    assert sent(sessions, "GET", "acme/put") == 200


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ("GET", "globex/a.pdf"),
        ("PUT", "globex/a.pdf"),
        ("PUT", "acme1/a"),
        ("POST", "globex/a.pdf"),
    ],
)
def test_what_a_session_signs_reaches_nobody_elses(
    sessions: RoleSessions, method: str, key: str
) -> None:
    assert sent(sessions, method, key) == 403


def test_a_wildcard_in_a_prefix_reaches_no_further_than_itself(sessions: RoleSessions) -> None:
    # MiniStack knows no escapes, so here it does not reach itself either
    assert sent(sessions, "PUT", "ab/b", ("a*/",)) == 403


def test_a_client_for_calls_has_the_tenants_session(sessions: RoleSessions) -> None:
    client, bucket = sessions.tenant_client(), {"Bucket": sessions.role.name}
    assert client.create_multipart_upload(**bucket, Key="acme/a")["UploadId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.create_multipart_upload(**bucket, Key="globex/a")


def test_only_the_session_for_cleanup_may_list_uploads(sessions: RoleSessions) -> None:
    client, bucket = sessions.tenant_client(), {"Bucket": sessions.role.name}
    upload_id = client.create_multipart_upload(**bucket, Key="acme/a")["UploadId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.list_multipart_uploads(**bucket)
    access = (sessions.profile, "acme", PREFIXES, sessions.clock(), cleanup_session)
    cleanup = sessions.context.s3.client(*access)
    (listed,) = cleanup.list_multipart_uploads(**bucket)["Uploads"]
    assert listed["UploadId"] == upload_id
    with pytest.raises(ClientError, match="AccessDenied"):
        cleanup.create_multipart_upload(**bucket, Key="acme/a")
    cleanup.abort_multipart_upload(**bucket, Key="acme/a", UploadId=upload_id)


def test_an_upload_that_a_session_started_is_found_and_aborted_by_the_cleanup(
    sessions: RoleSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_upload = object_calls.start_upload

    def start_unheard(*arguments: Any) -> None:
        start_upload(*arguments)
        raise StorageSilent("storage does not answer")

    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 1_000}
    message = grant_message(["acme/a"], grant=terms, items=[{"key": "acme/a", "size": 1_000}])
    monkeypatch.setattr(object_calls, "start_upload", start_unheard)
    with pytest.raises(StorageSilent):
        sessions.issue(message)
    bucket, owner = {"Bucket": sessions.role.name}, sessions.role.storage.client()
    assert len(owner.list_multipart_uploads(**bucket)["Uploads"]) == 1
    sessions.clock.forward(minutes=2)
    assert abort_expired_uploads(sessions.context) == {"ended": 1, "postponed": 0}
    assert not owner.list_multipart_uploads(**bucket).get("Uploads")


def test_a_tenant_keeps_its_session_and_shares_it_with_nobody(sessions: RoleSessions) -> None:
    first = credentials(sessions)
    assert credentials(sessions) == first
    assert credentials(sessions, "globex", ("globex/",)).access_key != first.access_key
    assert credentials(sessions, prefixes=("acme/new/",)).access_key != first.access_key


@pytest.mark.parametrize("has_role", [False, True])
def test_a_role_that_cannot_be_assumed_is_named_with_the_reason(
    sessions: RoleSessions, *, has_role: bool
) -> None:
    if has_role:
        sessions.profile = replace(sessions.profile, external_id="guessed")
    else:
        sessions.role.delete()
    with pytest.raises(Malformed, match=r"'default' for arn:aws:iam::.*: AccessDenied") as raised:
        credentials(sessions)
    assert EXTERNAL_ID not in str(raised.value)
