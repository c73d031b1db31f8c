"""`audit whose` and `audit show` of grants of every kind that the real use case signed."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, insert, select, text

from models import Batch, ConfigChange, Delivery, Manifest
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
from tests.support.cli.operator import ON_SQLITE, json_lines, json_rows
from tests.support.fakes.http_storage import HttpStorage, MemoryStorage, running_http_storage
from worker.audit.show_command import show
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import write_transaction
from worker.rules.tenant_config import TenantConfig
from worker.whose.whose_command import whose

PART_SIZE = 5 * 1024**2
Whose = Callable[..., Result]
KINDS = ("download", "plain", "upload", "put", "multipart", "parts")


def verdicts(result: Result) -> list[str]:
    return [row["verdict"] for row in json_lines(result)]


def values(result: Result) -> dict[str, Any]:
    (row,) = json_lines(result)
    return row


def request(service: InProcessService, kind: str) -> dict[str, Any]:
    """Return a message of a kind. Where batches have several items, the second one is refused."""
    keys = ["acme/a.png", "acme/../b", "acme/b c.png"]
    match kind:
        case "plain":
            return grant_message(keys, grant=download_message(plain=True)["grant"])
        case "upload":
            return upload_message(keys)
        case "put":
            return put_message(dict.fromkeys(keys, 11))
        case "multipart":
            terms = {"kind": kind, "bucket": "demo", "expires_in": 600, "max_size": 2 * PART_SIZE}
            items = [{"key": "acme/film.mp4", "size": PART_SIZE + 1}]
            return grant_message(grant=terms | {"part_size": PART_SIZE}, items=items)
        case "parts":
            terms = {"kind": kind, "bucket": "demo", "expires_in": 600}
            terms["of"] = issue(service, "multipart")["id"]
            items = [{"key": "acme/film.mp4", "part": number} for number in (1, 2)]
            return grant_message(["acme/film.mp4"] * 2, grant=terms, items=items)
    return grant_message(keys)


def issue(service: InProcessService, kind: str) -> dict[str, Any]:
    """Return the last grant of a message of a kind."""
    grant: dict[str, Any] = service.issue(request(service, kind))["items"][-1]
    assert "url" in grant, grant
    return grant


def service_time(grant: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(grant["expires_at"])


def pasted(grant: dict[str, Any]) -> str:
    return json.dumps(grant["fields"]) if "fields" in grant else str(grant["url"])


@pytest.fixture(scope="module")
def storage() -> Iterator[HttpStorage]:
    with running_http_storage(MemoryStorage()) as server:
        yield server


@pytest.fixture
def config(storage: HttpStorage, apply_config: ApplyConfig) -> TenantConfig:
    policy = replace(POLICY, plain=True, max_size=2 * PART_SIZE)
    tenant = tenant_config(policies={"demo": policy}).tenants["acme"]
    config = TenantConfig(
        {"demo": replace(DEMO, endpoint=storage.url)},
        {"acme": tenant, "globex": replace(tenant, name="globex")},
    )
    apply_config(config)
    return config


@pytest.fixture
def run(config: TenantConfig, at_clock: Clock) -> Whose:  # noqa: ARG001
    return lambda *words, **options: CliRunner().invoke(whose, list(words), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paste", [pasted, partial(json.dumps, indent=2)], ids=["link", "JSON"])
def test_an_issued_grant_is_genuine(
    kind: str, paste: Callable[[dict[str, Any]], str], service: InProcessService, run: Whose
) -> None:
    grant = issue(service, kind)
    result = run("-", "--json", input=paste(grant))
    assert result.exit_code == 0
    expected = {
        "verdict": "genuine",
        "grant": grant["id"],
        "key": grant["key"],
        "tenant": "acme",
        "requested_by": "billing-nightly",
        "alive": True,
        "expires_at": grant["expires_at"],
    }
    assert values(result).items() >= expected.items()


def test_a_put_for_a_form_is_genuine(
    service: InProcessService, config: TenantConfig, apply_config: ApplyConfig, run: Whose
) -> None:
    profile = replace(config.buckets["demo"], post=False)
    apply_config(replace(config, buckets={"demo": profile}))
    message = upload_message() | {"items": [{"key": "acme/a.png", "size": 11}]}
    found = values(run("-", "--json", input=service.issue(message)["items"][0]["url"]))
    assert (found["verdict"], found["kind"]) == ("genuine", "put")


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


@pytest.mark.parametrize(
    ("part", "pattern", "other"),
    [
        ("key or bucket", r"/acme/b%20c\.png", "/acme/other.pdf"),
        ("key or bucket", "/valetkey-demo/", "/valetkey-other/"),
        ("host", "http://[^/]+", "http://evil.example"),
        ("host", "http://[^/]+", "http://evil.s3.amazonaws.com"),
        ("expiry", "X-Amz-Expires=300", f"X-Amz-Expires={'9' * 5_000}"),
        ("time of issue", "X-Amz-Date=20261124", "X-Amz-Date=20261125"),
        ("expiry", "X-Amz-Expires=300", "X-Amz-Expires=86400"),
        ("access key", "Credential=AKIDEXAMPLE", "Credential=AKIDOTHER"),
        ("method", '"GET"', '"PUT"'),
    ],
)
def test_a_grant_that_was_changed_is_altered(
    part: str, pattern: str, other: str, service: InProcessService, run: Whose
) -> None:
    changed = re.sub(pattern, other, json.dumps(issue(service, "download")))
    result = run(changed, "--json")
    assert result.exit_code == 1
    assert values(result).items() >= {"verdict": "altered", "differences": [part]}.items()


def test_a_link_without_its_id_is_found_by_its_signature(
    service: InProcessService, run: Whose
) -> None:
    grant = issue(service, "download")
    link = re.sub(r"x-grant-id=[^&]+&", "", grant["url"])
    found = values(run(link, "--json"))
    assert (found["grant"], found["differences"]) == (grant["id"], ["the grant id is missing"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_grant_that_was_signed_again_is_genuine_with_either_signature(
    kind: str,
    engine: Engine,
    service: InProcessService,
    clock: Clock,
    run: Whose,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = request(service, kind)
    first = service.issue(message)["items"][-1]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    clock.forward(seconds=30)
    again = build_service(engine, S3Clients(), clock).issue(message)["items"][-1]
    assert pasted(first) != pasted(again)
    found = [values(run(pasted(grant), "--json")) for grant in (first, again)]
    assert [(each["verdict"], each["grant"]) for each in found] == [("genuine", first["id"])] * 2
    assert [each["access_key"] for each in found] == ["AKIDEXAMPLE", "AKIDROTATED"]
    assert [each["signed_again_at"] is None for each in found] == [True, False]
    result = CliRunner().invoke(show, [first["id"], "--json"])
    (reissue,) = json.loads(result.stdout)["reissues"]
    assert reissue["access_key"] == "AKID…ATED"


def test_a_link_whose_signature_is_cut_off_is_truncated(
    service: InProcessService, run: Whose
) -> None:
    result = run(pasted(issue(service, "download"))[:-30], "--json")
    assert (result.exit_code, verdicts(result)) == (1, ["truncated"])
    unnamed = run(pasted(issue(service, "plain"))[:-30])
    assert (unnamed.exit_code, "is cut off" in unnamed.output) == (1, True)


def test_a_link_to_an_earlier_endpoint_of_its_profile_is_genuine(
    engine: Engine, service: InProcessService, run: Whose
) -> None:
    grant = issue(service, "download")
    with write_transaction(engine) as connection:
        before = connection.execute(text("SELECT endpoint FROM buckets")).scalar_one()
        connection.execute(text("UPDATE buckets SET endpoint = 'https://new.example'"))
        change = {"path": "buckets.demo.endpoint", "before": before, "after": "https://new.example"}
        author = {"changed_at": service_time(grant), "changed_by": "op", "command": "apply"}
        connection.execute(insert(ConfigChange).values(change | author))
    assert verdicts(run(pasted(grant), "--json")) == ["genuine"]
    moved = re.sub("http://[^/]+", "https://new.example", pasted(grant))
    assert verdicts(run(moved, "--json")) == ["genuine"]
    other = re.sub("http://[^/]+", "https://old.example", pasted(grant))
    assert verdicts(run(other, "--json")) == ["altered"]


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


def test_the_command_that_aborts_an_upload_names_its_batch(
    service: InProcessService, run: Whose
) -> None:
    grant = issue(service, "multipart")
    way, *_ = values(run(pasted(grant), "--json"))["ends_sooner"]
    batch = grant["id"].partition(".")[0]
    assert way.startswith(f"abort the upload: `valetkey cancel {batch} --abort-uploads`, or")


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


@ON_SQLITE
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


CHARGED = {
    "download": {"grants": 1, "download_grants": 1},
    "plain": {"grants": 1, "download_grants": 1},
    "upload": {"grants": 1, "upload_bytes": 500_000},
    "put": {"grants": 1, "upload_bytes": 11},
    "multipart": {"grants": 1, "upload_bytes": PART_SIZE + 1},
    "parts": None,
}


def told(grant_id: str) -> str:
    result = CliRunner().invoke(show, [grant_id])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("kind", KINDS)
def test_the_charge_of_each_kind_is_told(kind: str, service: InProcessService) -> None:
    grant = issue(service, kind)
    (story,) = json_rows(CliRunner().invoke(show, [grant["id"], "--json"]))
    assert (story["key"], story["decision"]) == (grant["key"], "issued")
    assert (story["quota"] or {}).get("charged") == CHARGED[kind]
    assert ("in parts of 5 MiB, open" in told(grant["id"])) == (kind == "multipart")


@pytest.mark.usefixtures("run")
def test_deliveries_and_the_manifest_are_told(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    request = grant_message(["acme/a.pdf"])
    service.issue(request)
    at = dict.fromkeys(("created_at", "finished_at", "next_attempt_at"), clock())
    delivery = {"chunk_number": 0, "endpoint": "billing", "state": "failed", "attempts": 3}
    delivery |= {"status": 503, "problem": "it answers 503", "event": "grants.decided"}
    manifest = {"object_key": "acme/results.jsonl", "state": "written", "attempts": 1}
    manifest |= {"issued": 1, "refused": 0}
    with write_transaction(engine) as connection:
        query = select(Batch.batch_number).where(Batch.batch_id == request["batch"])
        common = at | {"batch_number": connection.scalars(query).one(), "tenant": "acme"}
        connection.execute(insert(Delivery).values(common | delivery))
        connection.execute(insert(Manifest).values(common | manifest))
    text = told(f"{request['batch']}.0")
    assert "grants.decided of chunk 0 to endpoint billing, failed at 2026-" in text
    assert "after 3 attempts, HTTP 503: it answers 503" in text
    assert "acme/results.jsonl, written at 2026-" in text
