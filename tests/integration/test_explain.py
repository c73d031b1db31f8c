"""What is explained is what would be decided, and nothing comes of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Base
from tests.integration.conftest import Declare
from tests.issuing import Answering
from tests.requests import DEMO, POLICY, Clock, batch_id, declared, granting, message, putting
from tests.signed import declared as public
from tests.signed import opened, token
from valetkey.identity import generate
from valetkey.messages import Explanation
from worker.adapters.database import reading
from worker.adapters.s3 import S3
from worker.core.tenancy import Declared, Quota

KEY = generate("acme/main")
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MULTIPART = {"kind": "multipart", "bucket": "demo", "expires_in": 60, "max_size": 1_000}
UNUSABLE = replace(DEMO, name="unusable", bucket="no bucket")
SHORT = replace(DEMO, name="short", max_expires_in=60)


def known(*quotas: Quota) -> Declared:
    policies = {name: replace(POLICY, bucket=name) for name in ("demo", "unusable", "short")}
    acme = declared(*quotas, policies=policies, keys=public(KEY))
    return Declared({one.name: one for one in (DEMO, UNUSABLE, SHORT)}, acme.tenants)


@pytest.fixture
def service(declare: Declare, issuer: Answering) -> Answering:
    declare(known(Quota("grants", "day", 3), Quota("upload_bytes", "live", 1_000)))
    return issuer


def everything(engine: Engine) -> dict[str, list[Any]]:
    with reading(engine) as connection:
        tables = Base.metadata.sorted_tables
        return {str(table): list(connection.execute(select(table))) for table in tables}


def asked(service: Answering, raw: dict[str, Any]) -> Explanation:
    return Explanation.model_validate(service.issue(raw | {"ask": "explain"}))


def refusing(explanation: Explanation) -> list[tuple[str, str]]:
    return [(one.rule, one.refusal.code.value) for one in explanation.rules if one.refusal]


Before = Callable[[Answering, dict[str, Any]], Any]


def nothing(_service: Answering, _raw: dict[str, Any]) -> None:
    pass


def the_same(service: Answering, raw: dict[str, Any]) -> None:
    service.issue(raw)


def another(service: Answering, raw: dict[str, Any]) -> None:
    service.issue(raw | {"requested_by": "another"})


def two_more(service: Answering, _raw: dict[str, Any]) -> None:
    service.issue(message(["acme/x", "acme/y"]))


def its_first_chunk(service: Answering, raw: dict[str, Any]) -> None:
    service.issue(raw | {"chunk": 0})


def its_cancellation(service: Answering, raw: dict[str, Any]) -> None:
    service.issue(cancelling(raw))


def its_first_chunk_and_cancellation(service: Answering, raw: dict[str, Any]) -> None:
    service.issue(raw | {"chunk": 0})
    service.issue(cancelling(raw))


def cancelling(raw: dict[str, Any]) -> dict[str, Any]:
    said = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    return said | {"batch": raw["batch"]}


def second(keys: int = 3) -> dict[str, Any]:
    """The second chunk of a batch of so many items, one item a chunk."""
    whole = message([f"acme/{number}" for number in range(keys)], chunk_size=1)
    return whole | {"chunk": 1, "items": whole["items"][1:2]}


CASES: list[tuple[str, dict[str, Any], Before]] = [
    ("what is allowed", message(["acme/a", "acme/b"]), nothing),
    ("an item refused", message(["acme/a", "globex/b"]), nothing),
    ("all items refused", message(["globex/a"]), nothing),
    ("what policy refuses", granting(content_type="text/html"), nothing),
    ("what policy cuts", granting(expires_in=604_800, min_expires_in=60), nothing),
    ("an unknown bucket", granting(bucket="nowhere"), nothing),
    ("an unusable bucket", granting(bucket="unusable"), nothing),
    ("a provider too short", granting(bucket="short", min_expires_in=61), nothing),
    ("a provider that cuts", granting(bucket="short", expires_in=300), nothing),
    ("over its quota", message([f"acme/{number}" for number in range(4)]), nothing),
    ("within its quota once an item is refused", message(["acme/a"] * 3 + ["x/b"]), nothing),
    ("what others left of a quota", message(["acme/a", "acme/b"]), two_more),
    ("sizes within a quota", putting({"acme/a": 600, "acme/b": 400}, max_size=900), nothing),
    ("sizes over a quota", putting({"acme/a": 600, "acme/b": 401}, max_size=900), nothing),
    ("uploads in parts", message(["acme/a"], grant=MULTIPART), nothing),
    ("parts of nothing", message(grant={**MULTIPART, "kind": "parts", "of": "x.0"}), nothing),
    ("what was granted before", message(), the_same),
    ("what was refused before", granting(content_type="text/html"), the_same),
    ("what contradicts what was granted", message(), another),
    ("a later chunk", second(), its_first_chunk),
    ("a later chunk of a refused batch", second(4), its_first_chunk),
    ("what was cancelled unseen", message(), its_cancellation),
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
    service: Answering, monkeypatch: pytest.MonkeyPatch, raw: dict[str, Any], before: Before
) -> None:
    raw = prepared(raw | {"batch": batch_id()})
    before(service, raw)
    explanation = asked(service, raw)
    begun = type("Client", (), {"create_multipart_upload": lambda *_, **__: {"UploadId": "u"}})
    monkeypatch.setattr(S3, "client", lambda *_: begun())
    decided = service.issue(raw)
    granted = any("url" in item for item in decided["items"])
    assert (explanation.decision == "issue") == granted
    if not granted:
        refusal = decided.get("refusal") or decided["items"][0]
        assert refusal["code"] in {code for _, code in refusing(explanation)}


def test_to_explain_reads_and_nothing_else(
    service: Answering, engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3, "client", None)
    service.issue(second() | {"chunk": 0})
    before = everything(engine)
    for _, raw, _ in CASES:
        answer = service.answer(token(prepared(raw) | {"ask": "explain"}, KEY, clock()))
        assert opened(answer.wire, KEY)["status"] == "explained"
        assert "X-Amz" not in repr(answer.said)
    assert everything(engine) == before


def test_who_asks_is_part_of_it(service: Answering, clock: Clock) -> None:
    raw = message(ask="explain")
    signed = opened(service.answer(token(raw, KEY, clock())).wire, KEY)
    assert signed["rules"][0] == {"rule": "identity", "found": "signed by acme/main"}
    assert "trusts the queue" in service.issue(raw)["rules"][0]["found"]


def test_a_message_explained_is_then_granted_as_if_it_had_not_been(service: Answering) -> None:
    raw = message()
    asked(service, raw)
    assert service.issue(raw)["status"] == "issued"
