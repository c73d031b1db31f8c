"""`audit whose` of grants that the real use case signed, on both databases."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    download_message,
    grant_message,
    put_message,
    tenant_config,
    upload_message,
)
from tests.support.builders.services import InProcessService, build_service
from tests.support.fakes.http_storage import HttpStorage, running_http_storage
from tests.support.fakes.memory_storage import MemoryStorage
from worker.aws.clients import S3Clients
from worker.commands.audit.whose import whose
from worker.core.tenants.config import TenantConfig
from worker.db.engine import write_transaction

PART_SIZE = 5 * 1024**2
Whose = Callable[..., Result]


@pytest.fixture(scope="module")
def storage() -> Iterator[HttpStorage]:
    with running_http_storage(MemoryStorage()) as server:
        yield server


@pytest.fixture
def config(storage: HttpStorage, apply_config: ApplyConfig) -> TenantConfig:
    acme = tenant_config(policies={"demo": replace(POLICY, plain=True, max_size=2 * PART_SIZE)})
    tenant = replace(acme.tenants["acme"], policies=acme.tenants["acme"].policies)
    config = TenantConfig(
        {"demo": replace(DEMO, endpoint=storage.url)},
        {"acme": tenant, "globex": replace(tenant, name="globex")},
    )
    apply_config(config)
    return config


@pytest.fixture
def run(
    config: TenantConfig, database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Whose:
    assert config.tenants
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setattr("worker.clock.now", clock)
    return lambda *words, **options: CliRunner().invoke(whose, list(words), **options)


def verdicts(result: Result) -> list[str]:
    return [json.loads(line)["verdict"] for line in result.stdout.splitlines()]


def values(result: Result) -> dict[str, Any]:
    (line,) = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def multipart_message() -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 2 * PART_SIZE}
    request = grant_message(["acme/film.mp4"], grant=terms | {"part_size": PART_SIZE})
    return request | {"items": [{"key": "acme/film.mp4", "size": PART_SIZE + 1}]}


def parts_message(grant: dict[str, Any]) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": grant["id"]}
    items = [{"key": grant["key"], "part": number} for number in (1, 2)]
    return grant_message([grant["key"]] * 2, grant=terms) | {"items": items}


def issue(service: InProcessService, kind: str) -> dict[str, Any]:
    """Return a grant of a kind; not the first of its batch, where batches have several."""
    messages = {
        "download": lambda: grant_message(["acme/a.pdf", "acme/b c.pdf"]),
        "plain": lambda: grant_message(
            ["acme/a.pdf", "acme/b.pdf"], grant=download_message(plain=True)["grant"]
        ),
        "upload": lambda: upload_message(["acme/a.png", "acme/b c.png"]),
        "put": lambda: put_message({"acme/a.png": 10, "acme/b.png": 11}),
        "multipart": multipart_message,
        "parts": lambda: parts_message(issue(service, "multipart")),
    }
    grant: dict[str, Any] = service.issue(messages[kind]())["items"][-1]
    assert "url" in grant, grant
    return grant


def pasted(grant: dict[str, Any]) -> str:
    return json.dumps(grant["fields"]) if "fields" in grant else str(grant["url"])


KINDS = ("download", "plain", "upload", "put", "multipart", "parts")


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
    acme = service.issue(request)["items"][0]
    globex = service.issue(request | {"tenant": "globex", "requested_by": "eve"})["items"][0]
    if globex["url"] == acme["url"]:  # the same key and second: no signature tells them apart
        request = request | {"items": [{"key": "acme/z.pdf"}], "batch": request["batch"][:-1] + "f"}
        service.issue(request | {"items": [{"key": "acme/y.pdf"}]})
        globex = service.issue(request | {"tenant": "globex"})["items"][0]
    assert values(run(globex["url"], "--json"))["tenant"] == "globex"
    named = run(globex["id"], "--json")
    assert [json.loads(line)["tenant"] for line in named.stdout.splitlines()] == ["acme", "globex"]
    assert values(run(f"globex/{globex['id']}", "--json"))["tenant"] == "globex"


def test_an_id_or_metadata_is_named_only(service: InProcessService, run: Whose) -> None:
    grant = issue(service, "put")
    head = json.dumps({"ContentLength": 11, "Metadata": {"grant-id": grant["id"]}})
    for given in (grant["id"], f"x-amz-meta-grant-id: {grant['id']}", head):
        result = run("-", "--json", input=given)
        assert (result.exit_code, verdicts(result)) == (0, ["named"])


def test_a_refused_item_was_never_signed(service: InProcessService, run: Whose) -> None:
    request = grant_message(["acme/../a"])
    link = pasted(issue(service, "download"))
    forged = re.sub(r"x-grant-id=[^&]+", f"x-grant-id={request['batch']}.0", link)
    service.issue(request)
    result = run(forged)
    assert (result.exit_code, "FORGED" in result.output) == (1, True)
    assert "refused (key_traversal): nothing was ever signed for it" in result.output


def test_an_expired_link_has_nothing_to_end(
    service: InProcessService, clock: Clock, run: Whose
) -> None:
    link = pasted(issue(service, "download"))
    clock.time += timedelta(seconds=301)
    found = values(run(link, "--json"))
    assert (found["verdict"], found["alive"], found["ends_sooner"]) == ("genuine", False, [])


def test_ways_to_end_a_link_name_the_key_that_signed(service: InProcessService, run: Whose) -> None:
    ways = values(run(pasted(issue(service, "download")), "--json"))["ends_sooner"]
    assert [way for way in ways if "AKIDEXAMPLE" in way]
    assert [way for way in ways if way.startswith("`valetkey cancel` does not end it")]


UNKNOWN = "0199a000-0000-7000-8000-000000000000.7"
SIGNED = f"X-Amz-Date=20261124T123000Z&X-Amz-Signature={'0' * 64}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (UNKNOWN, "no grant with this id"),
        (f"https://a.example/k?x-grant-id={UNKNOWN}&{SIGNED}", "no grant with this id"),
        (f"https://a.example/k?{SIGNED}", "not from this service"),
        (f"https://a.example/k?x-grant-id=abc&{SIGNED}", "not from this service"),
        (f"https://a.example/k?X-Amz-Signature={'0' * 64}", "without X-Amz-Date"),
        ("https://a.example/k", "neither a grant id nor a signature"),
    ],
)
def test_a_link_that_is_not_ours_is_said_to_be(given: str, words: str, run: Whose) -> None:
    result = run(given)
    assert (result.exit_code, words in result.output) == (1, True), result.output
    assert "a.example" not in result.output


@pytest.mark.parametrize("given", ["", "hello", "{}", "\0", "x" * 70_000, "--jsn", "a b c"])
def test_garbage_is_a_wrong_use(given: str, run: Whose) -> None:
    for result in (run(given), run("-", input=given)):
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        assert given not in result.output or given in {"", "\0"}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_printed_has_a_link_or_signature(
    kind: str, service: InProcessService, run: Whose
) -> None:
    grant = issue(service, kind)
    link = pasted(grant)
    (signature, *_) = re.findall(r"[0-9a-f]{64}", link)
    for given in (link, link[:-1], f"{link} {link[-30:]}", link.replace(signature, "f" * 64)):
        for options in ((), ("--json",)):
            output = run(given, *options).output
            assert not [part for part in (signature, "f" * 64, "://", "Policy") if part in output]
