"""What is explained is what would be decided, and nothing comes of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base
from tests.integration.conftest import Declare
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    batch_id,
    download_message,
    grant_message,
    put_message,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from tests.support.crypto.tokens import open_result, sign_message
from tests.support.crypto.tokens import tenant_keys as public
from valetkey.crypto.keys import generate_key
from valetkey.wire.messages import Explanation
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, TenantConfig
from worker.db.engine import read_transaction

KEY = generate_key("acme/main")
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MULTIPART = {"kind": "multipart", "bucket": "demo", "expires_in": 60, "max_size": 1_000}
UNUSABLE = replace(DEMO, name="unusable", bucket="no bucket")
SHORT = replace(DEMO, name="short", max_expires_in=60)


def known(*quotas: Quota) -> TenantConfig:
    policies = {name: replace(POLICY, bucket=name) for name in ("demo", "unusable", "short")}
    acme = tenant_config(*quotas, policies=policies, keys=public(KEY))
    return TenantConfig({one.name: one for one in (DEMO, UNUSABLE, SHORT)}, acme.tenants)


@pytest.fixture
def service(declare: Declare, issuer: InProcessService) -> InProcessService:
    declare(known(Quota("grants", "day", 3), Quota("upload_bytes", "live", 1_000)))
    return issuer


def everything(engine: Engine) -> dict[str, list[Any]]:
    with read_transaction(engine) as connection:
        tables = Base.metadata.sorted_tables
        return {str(table): list(connection.execute(select(table))) for table in tables}


def asked(service: InProcessService, raw: dict[str, Any]) -> Explanation:
    return Explanation.model_validate(service.issue(raw | {"ask": "explain"}))


def refusing(explanation: Explanation) -> list[tuple[str, str]]:
    return [(one.rule, one.refusal.code.value) for one in explanation.rules if one.refusal]


Before = Callable[[InProcessService, dict[str, Any]], Any]


def nothing(_service: InProcessService, _raw: dict[str, Any]) -> None:
    pass


def the_same(service: InProcessService, raw: dict[str, Any]) -> None:
    service.issue(raw)


def another(service: InProcessService, raw: dict[str, Any]) -> None:
    service.issue(raw | {"requested_by": "another"})


def two_more(service: InProcessService, _raw: dict[str, Any]) -> None:
    service.issue(grant_message(["acme/x", "acme/y"]))


def its_first_chunk(service: InProcessService, raw: dict[str, Any]) -> None:
    service.issue(raw | {"chunk": 0})


def its_cancellation(service: InProcessService, raw: dict[str, Any]) -> None:
    service.issue(cancelling(raw))


def its_first_chunk_and_cancellation(service: InProcessService, raw: dict[str, Any]) -> None:
    service.issue(raw | {"chunk": 0})
    service.issue(cancelling(raw))


def cancelling(raw: dict[str, Any]) -> dict[str, Any]:
    said = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    return said | {"batch": raw["batch"]}


def second(keys: int = 3) -> dict[str, Any]:
    """The second chunk of a batch of so many items, one item a chunk."""
    whole = grant_message([f"acme/{number}" for number in range(keys)], chunk_size=1)
    return whole | {"chunk": 1, "items": whole["items"][1:2]}


CASES: list[tuple[str, dict[str, Any], Before]] = [
    ("what is allowed", grant_message(["acme/a", "acme/b"]), nothing),
    ("an item refused", grant_message(["acme/a", "globex/b"]), nothing),
    ("all items refused", grant_message(["globex/a"]), nothing),
    ("what policy refuses", download_message(content_type="text/html"), nothing),
    ("what policy cuts", download_message(expires_in=604_800, min_expires_in=60), nothing),
    ("an unknown bucket", download_message(bucket="nowhere"), nothing),
    ("an unusable bucket", download_message(bucket="unusable"), nothing),
    ("a provider too short", download_message(bucket="short", min_expires_in=61), nothing),
    ("a provider that cuts", download_message(bucket="short", expires_in=300), nothing),
    ("over its quota", grant_message([f"acme/{number}" for number in range(4)]), nothing),
    ("within its quota once an item is refused", grant_message(["acme/a"] * 3 + ["x/b"]), nothing),
    ("what others left of a quota", grant_message(["acme/a", "acme/b"]), two_more),
    ("sizes within a quota", put_message({"acme/a": 600, "acme/b": 400}, max_size=900), nothing),
    ("sizes over a quota", put_message({"acme/a": 600, "acme/b": 401}, max_size=900), nothing),
    ("uploads in parts", grant_message(["acme/a"], grant=MULTIPART), nothing),
    ("parts of nothing", grant_message(grant={**MULTIPART, "kind": "parts", "of": "x.0"}), nothing),
    ("what was granted before", grant_message(), the_same),
    ("what was refused before", download_message(content_type="text/html"), the_same),
    ("what contradicts what was granted", grant_message(), another),
    ("a later chunk", second(), its_first_chunk),
    ("a later chunk of a refused batch", second(4), its_first_chunk),
    ("what was cancelled unseen", grant_message(), its_cancellation),
    ("what was cancelled since", second(), its_first_chunk_and_cancellation),
]


def prepared(raw: dict[str, Any]) -> dict[str, Any]:
    """A message of kinds whose items need more than a key, and terms without what others have."""
    if raw["grant"]["kind"] == "multipart":
        raw["items"] = [{**item, "size": 10} for item in raw["items"]]
    if raw["grant"]["kind"] == "parts":
        raw["grant"].pop("max_size", None)
        raw["items"] = [{**item, "part": 1} for item in raw["items"]]
    return raw


@ON_SQLITE
@pytest.mark.parametrize(("raw", "before"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_is_explained_is_what_is_decided_then(
    service: InProcessService, monkeypatch: pytest.MonkeyPatch, raw: dict[str, Any], before: Before
) -> None:
    raw = prepared(raw | {"batch": batch_id()})
    before(service, raw)
    explanation = asked(service, raw)
    begun = type("Client", (), {"create_multipart_upload": lambda *_, **__: {"UploadId": "u"}})
    monkeypatch.setattr(S3Clients, "client", lambda *_: begun())
    decided = service.issue(raw)
    granted = any("url" in item for item in decided["items"])
    assert (explanation.decision == "issue") == granted
    if not granted:
        refusal = decided.get("refusal") or decided["items"][0]
        assert refusal["code"] in {code for _, code in refusing(explanation)}


def test_to_explain_reads_and_nothing_else(
    service: InProcessService, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Clients, "client", None)
    service.issue(second() | {"chunk": 0})
    before = everything(engine)
    for _, raw, _ in CASES:
        answer = service.answer(sign_message(prepared(raw) | {"ask": "explain"}, KEY, clock()))
        assert open_result(answer.wire, KEY)["status"] == "explained"
        assert "X-Amz" not in repr(answer.said)
    assert everything(engine) == before


def test_who_asks_is_part_of_it(service: InProcessService, clock: Clock) -> None:
    raw = grant_message(ask="explain")
    signed = open_result(service.answer(sign_message(raw, KEY, clock())).wire, KEY)
    assert signed["rules"][0] == {"rule": "identity", "found": "signed by acme/main"}
    assert "trusts the queue" in service.issue(raw)["rules"][0]["found"]


def test_a_message_explained_is_then_granted_as_if_it_had_not_been(
    service: InProcessService,
) -> None:
    raw = grant_message()
    asked(service, raw)
    assert service.issue(raw)["status"] == "issued"
