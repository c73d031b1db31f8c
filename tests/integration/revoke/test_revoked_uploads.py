"""Multipart uploads whose grants are revoked: nothing is signed for them, and they are aborted."""

from types import SimpleNamespace
from typing import Any

import pytest

from models import MultipartUpload
from tests.integration.revoke.conftest import Links
from tests.support.builders.messages import grant_message
from tests.support.s3.http_requests import Request, send
from tests.support.servers.waiting import wait_until
from worker.aborts.multipart_aborts import abort_expired_uploads
from worker.revoke.kept_statements import keep_denials

FILM = "acme/film.mp4"
SIZE = 300_000
# What a revocation of each kind names; credentials are no grant's own.
TARGETS = {
    "grant": "{id}",
    "batch": "{batch}",
    "key": f"s3://demo/{FILM}",
    "prefix": "s3://demo/acme/fi",
    "tenant": "acme",
}


@pytest.fixture
def upload(links: Links) -> dict[str, Any]:
    """The grant of a started upload."""
    grant: dict[str, Any] = links.issue(upload_message())["items"][0]
    return grant


def upload_message() -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 300, "max_size": SIZE}
    return grant_message([FILM], grant=terms, items=[{"key": FILM, "size": SIZE}])


def parts_message(upload: dict[str, Any]) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 300, "of": upload["id"]}
    return grant_message(grant=terms, items=[{"key": FILM, "part": 1}])


def revoke(links: Links, kind: str, upload: dict[str, Any]) -> None:
    id_ = upload["id"]
    value = TARGETS[kind].format(id=id_, batch=id_.partition(".")[0])
    assert (
        "Error: not proven for 1 of kind multipart" in links.run(f"--{kind}", value, "--yes").output
    )


@pytest.mark.parametrize("kind", TARGETS)
def test_parts_of_a_revoked_upload_are_not_signed(
    kind: str, links: Links, upload: dict[str, Any]
) -> None:
    revoke(links, kind, upload)
    refusal = links.issue(parts_message(upload))["refusal"]
    assert (refusal["code"], refusal["field"]) == ("revoked", "grant.of")


def test_parts_that_were_granted_before_are_not_signed_again(
    links: Links, upload: dict[str, Any]
) -> None:
    message = parts_message(upload)
    assert "url" in links.issue(message)["items"][0]
    revoke(links, "grant", upload)
    assert links.issue(message)["refusal"]["code"] == "revoked"
    reopened = {"v": 1, "ask": "batch", "tenant": "acme", "batch": message["batch"], "chunk": 0}
    assert links.issue(reopened)["refusal"]["code"] == "revoked"


def test_parts_of_another_upload_of_the_tenant_are_signed(
    links: Links, upload: dict[str, Any]
) -> None:
    [grant] = links.issue(upload_message())["items"]
    revoke(links, "grant", upload)
    assert "url" in links.issue(parts_message(grant))["items"][0]


def test_a_revoked_upload_is_aborted_though_storage_refuses_aborts_of_denied_objects(
    links: Links, upload: dict[str, Any]
) -> None:
    [part] = links.issue(parts_message(upload))["items"]
    revoke(links, "tenant", upload)
    assert links.client.list_multipart_uploads(Bucket=links.bucket).get("Uploads", []) == []
    assert send(Request("PUT", part["url"], part["headers"], b"x" * SIZE)).status == 403
    assert links.rows(MultipartUpload.state) == [("aborted",)]


@pytest.mark.usefixtures("upload")
def test_another_upload_of_a_denied_object_is_aborted_when_the_denial_ends(links: Links) -> None:
    [other] = links.issue(upload_message())["items"]
    revoke(links, "grant", other)
    links.clock.forward(seconds=301)
    keep_denials(links.context)

    def are_aborted() -> bool:
        abort_expired_uploads(links.context)
        links.clock.forward(minutes=1)
        return ("open",) not in links.rows(MultipartUpload.state)

    # SeaweedFS takes a moment to apply a policy.
    wait_until(are_aborted, what="the uploads are aborted")


def test_a_denial_does_not_deny_aborts(links: Links, upload: dict[str, Any]) -> None:
    revoke(links, "grant", upload)
    [statement] = links.statements()
    assert "s3:AbortMultipartUpload" not in statement["Action"]


def test_storage_that_is_slow_to_abort_uploads_does_not_keep_a_denial_waiting(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        links.issue(upload_message())
    asked: list[str] = []
    revoke_module = "worker.revoke.revocation"
    monkeypatch.setattr(f"{revoke_module}.abort_upload", lambda _, id_, __: asked.append(id_))
    time = SimpleNamespace(monotonic=lambda: 15.0 * len(asked))
    monkeypatch.setattr(f"{revoke_module}.time", time, raising=False)
    links.run("--tenant", "acme", "--yes")
    assert (len(asked), len(links.statements())) == (2, 1)
