"""Proofs of revocations, and the steps that can fail after a revocation is recorded."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from models import Denial, Revocation
from tests.integration.revoke.conftest import KEY, OTHER_KEY, Links, check
from tests.support.builders.messages import POLICY, grant_message, put_message, upload_message
from tests.support.fakes.http_storage import StorageResponse, StoredRequest
from tests.support.s3.http_requests import Request, send, status
from tests.support.s3.unreliable_storage import HUNG_UP, SLOW_DOWN, unreliable_storage
from worker.revoke import proofs
from worker.shared.storage_requests import StorageConnection
from worker.uses.access_log import read_line

# What is proven depends on storage, and on no database.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.mark.parametrize("is_repeated", [False, True])
def test_a_refusal_proves_nothing_if_no_link_worked_before(
    links: Links, *, is_repeated: bool
) -> None:
    [grant] = links.grant(KEY)
    if is_repeated:
        links.revoke(grant)
        links.client.delete_bucket_policy(Bucket=links.bucket)
    links.client.delete_object(Bucket=links.bucket, Key=KEY)
    check(links.revoke(grant), 1, "Error: not proven")


def test_links_that_nothing_denied_and_storage_refuses_prove_nothing(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    [grant] = links.grant(KEY)
    monkeypatch.setattr(proofs, "_use_link", lambda *_: 403)
    check(links.revoke(grant), 1, "Error: not proven")


def test_a_second_revocation_says_who_did_it_and_adds_no_statement(links: Links) -> None:
    [grant] = links.grant(KEY)
    links.revoke(grant)
    again = links.revoke(grant)
    assert "denied already by " in again.output
    assert "Done already: storage refuses a link" in again.output
    assert again.exit_code == 0, again.output
    assert (len(links.statements()), len(links.rows(Denial.sid))) == (1, 1)


def test_a_statement_that_ends_too_early_is_not_used_again(links: Links) -> None:
    links.revoke(links.grant(KEY)[0])
    links.clock.forward(seconds=60)
    result = links.revoke(links.grant(KEY)[0])
    assert ("denied already" in result.output, len(links.statements())) == (False, 2)
    # Its link was refused before, by the statement that ends earlier.
    check(result, 0, "Done already: storage refuses a link")


def test_an_empty_object_proves_a_denial(links: Links) -> None:
    links.client.put_object(Bucket=links.bucket, Key=KEY, Body=b"")
    [grant] = links.grant(KEY)
    check(links.revoke(grant), 0, "Proven: storage served a link")
    assert status(grant) == 403


def test_another_object_is_tried_if_the_first_is_gone(links: Links) -> None:
    links.grant(KEY, OTHER_KEY)
    links.client.delete_object(Bucket=links.bucket, Key=KEY)
    values = links.values("--prefix", "s3://demo/acme/", "--yes")
    assert values["result"]["proven"] is True


def test_a_proven_download_does_not_prove_the_uploads_beside_it(links: Links) -> None:
    links.grant(KEY)
    links.issue(put_message({"acme/new.png": 3}))
    result = links.values("--tenant", "acme", "--yes")["result"]
    assert (result["proven"], result["unproven"]) == (None, {"put": 1})


def test_a_form_that_storage_accepts_despite_the_denial_is_not_called_ended(links: Links) -> None:
    [form] = links.issue(upload_message(["acme/a.png"]))["items"]
    plan = links.run("--grant", form["id"]).output
    result = links.revoke(form)
    body = [*form["fields"].items(), ("file", b"abc")]
    assert send(Request("POST", form["url"], form=body)).status == 204  # on SeaweedFS
    check(result, 1, "Error: not proven for 1 of kind upload")
    assert "storage other than AWS may still accept forms" in plan


def test_a_link_that_still_works_is_an_error(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.revoke.revocation.keep_statements", lambda *_: {})
    monkeypatch.setattr(proofs, "_LINK_SECONDS", 0)
    [grant] = links.grant(KEY)
    result = links.revoke(grant)
    assert (result.exit_code, status(grant)) == (1, 200)
    assert "Error: storage still accepts a link" in result.output


@pytest.mark.parametrize("failure", [SLOW_DOWN, HUNG_UP])
@pytest.mark.parametrize(
    ("answered", "exit_code", "text"),
    [
        ({"served", "refused"}, 0, "Proven: storage served a link"),
        ({"refused"}, 1, "storage did not answer a link"),
        ({"served"}, 1, "storage did not answer a link"),
    ],
)
def test_a_temporary_error_of_storage_is_no_answer_to_a_link(
    links: Links,
    failure: StorageResponse,
    answered: set[str],
    exit_code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proofs, "_FIND_SECONDS", 2)
    monkeypatch.setattr(proofs, "_LINK_SECONDS", 2)
    failed = Counter[str]()

    def interfere(
        request: StoredRequest, forward: Callable[[], StorageResponse]
    ) -> StorageResponse:
        if request.headers["user-agent"] != proofs.USER_AGENT:
            return forward()
        part = "refused" if links.statements() else "served"
        failed[part] += 1
        return forward() if part in answered and failed[part] > 1 else failure

    [grant] = links.grant(KEY)
    with unreliable_storage(links.client.meta.endpoint_url) as storage:
        storage.interfere = interfere
        links.change_bucket(internal_endpoint=storage.url)
        check(links.revoke(grant), exit_code, text)


def test_the_link_of_a_proof_is_nobodys_download(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    send = StorageConnection.send

    def record(connection: StorageConnection, request: Any, *arguments: Any) -> Any:
        sent.append(request)
        return send(connection, request, *arguments)

    monkeypatch.setattr(StorageConnection, "send", record)
    links.revoke(links.grant(KEY)[0])
    for request in sent:
        assert read_line(request.url.encode()) == "other"
        assert request.headers["user-agent"] == "valetkey-revocation-proof"
    assert sent


def test_unreachable_storage_does_not_keep_a_revocation_from_being_recorded(links: Links) -> None:
    message = grant_message([KEY])
    [grant] = links.issue(message)["items"]
    links.change_bucket(internal_endpoint="http://127.0.0.1:9")
    result = links.revoke(grant)
    check(result, 1, "storage did not answer a link")
    assert "storage still accepts 1 of 1 grants" in result.output
    assert links.rows(Revocation.target) == [(grant["id"],)]
    assert links.issue(message)["items"][0]["code"] == "revoked"


def test_an_unreachable_result_store_does_not_keep_links_from_being_denied(
    links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    [grant] = links.grant(KEY)
    monkeypatch.setenv("VALETKEY_RESULT_URL", "redis://127.0.0.1:9/0")
    result = links.revoke(grant)
    assert (result.exit_code, status(grant)) == (1, 403)
    assert "unread results are not deleted" in result.output


def test_other_credentials_are_said_to_sign_again(links: Links) -> None:
    links.grant(KEY)
    levers = links.values("--prefix", "s3://demo/acme/")["levers"]
    key = next(each["where"] for each in levers if each["lever"] == "disable_access_key")
    output = " ".join(links.run("--credentials", key, "--yes").output.split())
    assert "other credentials may sign the grants again" in output


def test_a_prefix_has_the_case_of_its_letters(links: Links) -> None:
    links.grant("acme/a/x", "acme/A/x")
    assert "1 live grant," in links.run("--prefix", "s3://demo/acme/a/").output


def test_grants_that_todays_policy_would_refuse_are_denied_with_their_tenant(links: Links) -> None:
    grants = links.grant(KEY, OTHER_KEY)
    policies = {"demo": replace(POLICY, prefixes=("acme/sub/",))}
    acme = replace(links.config.tenants["acme"], policies=policies)
    links.apply(replace(links.config, tenants={"acme": acme}))
    result = links.run("--tenant", "acme", "--yes")
    assert [status(grant) for grant in grants] == [403, 403], result.output
    assert result.exit_code == 0


def test_profiles_with_similar_names_are_denied_each(links: Links) -> None:
    names = "customer-uploads-eu", "customer-uploads-us"
    first = replace(links.config.buckets["demo"], name=names[0])
    links.apply_profiles(first, replace(first, name=names[1], bucket=links.new_bucket()))
    terms = grant_message([KEY])["grant"]
    grants = [links.grant(KEY, grant=terms | {"bucket": name})[0] for name in names]
    result = links.run("--tenant", "acme", "--yes")
    assert ([status(grant) for grant in grants], result.exit_code) == ([403, 403], 0)


@pytest.mark.parametrize("key", ["acme/a*b", "acme/a?b", "acme/a$b", "acme/a${x}b", "acme/ä b+c"])
def test_an_object_is_denied_whatever_characters_its_key_has(key: str, links: Links) -> None:
    links.client.put_object(Bucket=links.bucket, Key=key, Body=b"content")
    grant, other = links.grant(key, OTHER_KEY)
    assert links.revoke(grant).exit_code == 0
    assert (status(grant), status(other)) == (403, 200)
