"""`audit whose` of grants that the real use case signed, on both databases."""

import json
import re

import pytest
from sqlalchemy import Engine, text

from tests.support.builders.messages import (
    Clock,
    download_message,
    grant_message,
    put_message,
    upload_message,
)
from tests.support.builders.services import InProcessService, build_service
from tests.support.cli.pasted_links import KINDS, Whose, issue, pasted, values, verdicts
from worker.aws.clients import S3Clients
from worker.core.tenants.config import TenantConfig
from worker.db.engine import write_transaction


@pytest.mark.parametrize("kind", KINDS)
def test_an_issued_link_is_genuine(kind: str, service: InProcessService, run: Whose) -> None:
    grant = issue(service, kind)
    result = run(pasted(grant), "--json")
    assert result.exit_code == 0
    found = values(result)
    assert found["verdict"] == "genuine"
    assert (found["grant"], found["key"]) == (grant["id"], grant["key"])
    assert (found["tenant"], found["requested_by"]) == ("acme", "billing-nightly")
    assert (found["alive"], found["expires_at"]) == (True, grant["expires_at"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_that_the_client_prints_is_genuine(
    kind: str, service: InProcessService, run: Whose
) -> None:
    result = run("-", "--json", input=json.dumps(issue(service, kind), indent=2))
    assert (result.exit_code, verdicts(result)) == (0, ["genuine"])


@pytest.mark.parametrize("kind", KINDS)
def test_another_signature_is_forged_or_unknown(
    kind: str, service: InProcessService, run: Whose
) -> None:
    link = re.sub(r"[0-9a-f]{64}", "0" * 64, pasted(issue(service, kind)))
    result = run(link, "--json")
    assert result.exit_code == 1
    if kind == "plain":
        assert "has no such signature" in result.output
    else:
        assert verdicts(result) == ["unproven" if kind == "multipart" else "forged"]


ALTERATIONS = {
    "key or bucket": (r"/acme/b%20c\.pdf", "/acme/other.pdf"),
    "time of issue": (r"X-Amz-Date=20261124", "X-Amz-Date=20261125"),
    "expiry": (r"X-Amz-Expires=300", "X-Amz-Expires=86400"),
    "access key": (r"Credential=AKIDEXAMPLE", "Credential=AKIDOTHER"),
}


@pytest.mark.parametrize("part", ALTERATIONS)
def test_a_link_that_was_changed_is_altered(
    part: str, service: InProcessService, run: Whose
) -> None:
    link = re.sub(*ALTERATIONS[part], pasted(issue(service, "download")))
    found = run(link, "--json")
    assert (found.exit_code, values(found)["verdict"]) == (1, "altered")
    assert values(found)["differences"] == [part]


def test_a_link_to_another_bucket_is_altered(service: InProcessService, run: Whose) -> None:
    link = pasted(issue(service, "download")).replace("/valetkey-demo/", "/valetkey-other/")
    assert values(run(link, "--json"))["differences"] == ["key or bucket"]


def test_another_method_is_altered(service: InProcessService, run: Whose) -> None:
    grant = issue(service, "download") | {"method": "PUT"}
    assert values(run(json.dumps(grant), "--json"))["differences"] == ["method"]


def test_a_link_without_its_id_is_found_by_its_signature(
    service: InProcessService, run: Whose
) -> None:
    grant = issue(service, "download")
    link = re.sub(r"x-grant-id=[^&]+&", "", grant["url"])
    found = values(run(link, "--json"))
    assert (found["grant"], found["differences"]) == (grant["id"], ["the grant id is missing"])


@pytest.mark.parametrize("kind", ["download", "plain", "upload", "put"])
def test_a_grant_that_was_signed_again_is_genuine_with_either_signature(
    kind: str,
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    run: Whose,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = ["acme/a.png", "acme/../b", "acme/c.png"]
    requests = {
        "download": grant_message(keys),
        "plain": grant_message(keys, grant=download_message(plain=True)["grant"]),
        "upload": upload_message(keys),
        "put": put_message(dict.fromkeys(keys, 10)),
    }
    first = service.issue(requests[kind])["items"][-1]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    clock.forward(seconds=30)
    again = build_service(engine, S3Clients(), clock).issue(requests[kind])["items"][-1]
    assert pasted(first) != pasted(again)
    found = [values(run(pasted(grant), "--json")) for grant in (first, again)]
    assert [each["verdict"] for each in found] == ["genuine", "genuine"]
    assert [each["access_key"] for each in found] == ["AKIDEXAMPLE", "AKIDROTATED"]
    assert [each["signed_again_at"] is None for each in found] == [True, False]
    assert {each["grant"] for each in found} == {first["id"]}


def test_a_link_stays_genuine_if_its_profile_gets_another_bucket(
    engine: Engine, config: TenantConfig, service: InProcessService, run: Whose
) -> None:
    link = pasted(issue(service, "download"))
    with write_transaction(engine) as connection:  # as `apply` records it
        connection.execute(text("UPDATE buckets SET bucket = 'moved'"))
        connection.execute(
            text(
                "INSERT INTO config_changes (changed_at, changed_by, command, path, before, after)"
                " VALUES ('2026-11-24', 'op', 'apply', 'buckets.demo.bucket',"
                " '\"valetkey-demo\"', '\"moved\"')"
            )
        )
    assert config.buckets["demo"].bucket == "valetkey-demo"
    assert verdicts(run(link, "--json")) == ["genuine"]


def test_the_tenant_is_told_by_the_signature_if_two_chose_the_same_batch(
    service: InProcessService, run: Whose
) -> None:
    request = grant_message()
    service.issue(request)
    other = request | {"tenant": "globex", "items": [{"key": "acme/z.pdf"}]}
    globex = service.issue(other)["items"][0]
    assert values(run(globex["url"], "--json"))["tenant"] == "globex"
    named = run(globex["id"], "--json")
    assert [json.loads(line)["tenant"] for line in named.stdout.splitlines()] == ["acme", "globex"]
    assert values(run(f"globex/{globex['id']}", "--json"))["tenant"] == "globex"
