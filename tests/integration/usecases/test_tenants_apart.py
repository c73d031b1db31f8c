"""Twenty tenants, and every operation of each on all that is another's: refused, or without effect.

What a tenant asks it signs with its own key. After each test, what the others had is as it was.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from sqlalchemy import event

from tests.support.builders.messages import batch_id, grant_message
from tests.support.crypto.tokens import open_result, sign_message
from tests.support.quota_model.tenant_matrix import TERMS, TenantMatrix, as_own, ask_message
from valetkey.crypto.jose import InvalidToken, recipient_key_id, unseal
from valetkey.crypto.keys import PrivateKey
from worker.aws import clients
from worker.aws.clients import S3Clients
from worker.commands.database import migrate_to_head
from worker.core.signing.sigv4 import Target
from worker.core.signing.urls import UrlSigner
from worker.core.tenants.config import Bucket
from worker.db.engine import create_database_engine

INTO = [  # ways from one prefix into another
    "{other}/a",
    "{other}/../{other}/a",
    "{me}/../{other}/a",
    "{me}/./../{other}/a",
    "{me}//../{other}/a",
    "{me}/%2e%2e/{other}/a",
    "{me}/%252e%252e%252f{other}/a",
    "{me}/..%2f{other}/a",
    "{me}\\..\\{other}\\a",
    "{me}/\u2024\u2024/{other}\0",
    "/{other}/a",
    "{me}",
    "{me}{other}/a",
    "{me}0/a",
]


def found(bucket: Bucket, _endpoint: str | None) -> clients._Found:
    return clients._Found(
        Target("http", "s3.test", f"/{bucket.bucket}/", "us-east-1", "s3"), UrlSigner
    )


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
    record_testsuite_property: Callable[[str, object], None],
) -> Iterator[TenantMatrix]:
    url = f"sqlite:///{tmp_path_factory.mktemp('apart') / 'valetkey.db'}"
    migrate_to_head(url)
    engine = create_database_engine(url)
    # What is decided is what is looked at here: thousands of commits need not survive the machine.
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        patch.setattr(
            clients, "_find", found
        )  # boto3 is as slow to find a place as all else together
        begun = SimpleNamespace(create_multipart_upload=lambda **_: {"UploadId": "upload"})
        patch.setattr(S3Clients, "client", lambda *_: begun)
        world = TenantMatrix(engine)
        yield world
    record_testsuite_property("operations tried on another tenant", world.tried)
    engine.dispose()


@pytest.fixture
def world(shared: TenantMatrix) -> Iterator[TenantMatrix]:
    before = shared.held()
    yield shared
    assert shared.held() == before


def test_no_bucket_profile_of_another_is_anyones(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        for terms in TERMS:
            raw = as_own(ask_message(me, grant=terms), f"of-{other.name}")
            assert world.refused(me, raw) == "bucket_not_allowed"


def test_no_way_leads_from_ones_prefix_into_anothers(world: TenantMatrix) -> None:
    before = world.used()
    for terms in TERMS[:2]:
        for me in world.sides:
            others = [side.name for side in world.sides if side is not me]
            keys = [way.format(me=me.name, other=other) for way in INTO for other in others]
            raw = as_own(grant_message(keys, tenant=me.name, grant=terms), "common")
            said = world.ask(me, raw)
            world.tried += len(keys) - 1
            assert [item["key"] for item in said["items"] if "url" in item] == []
    assert world.used() == before


def test_no_parts_of_anothers_upload_are_anyones(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        parts = {"kind": "parts", "expires_in": 60, "of": other.upload}
        items = [{"key": f"{other.name}/film", "part": 1}]
        raw = as_own(ask_message(me, grant=parts, items=items), "common")
        assert world.refused(me, raw) == "upload_unknown"


def test_nobody_goes_on_with_anothers_batch(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        assert world.refused(me, other.second | {"tenant": me.name}) == "bucket_not_allowed"


def test_anothers_batch_id_names_a_batch_of_ones_own(world: TenantMatrix) -> None:
    before = world.used()
    for me, other in world.pairs():
        (grant,) = world.ask(me, ask_message(me, batch=other.ids[1]))["items"]
        assert grant["id"] == f"{other.ids[1]}.0"
        assert f"/{me.name * 2}/{me.name}/a?" in grant["url"]
    others = len(world.sides) - 1
    assert world.used() == {name: used + others for name, used in before.items()}


def test_no_manifest_of_anyones_is_written_among_anothers_objects(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        for key in (f"{other.name}/links.gz", f"{me.name}/../{other.name}/links.gz"):
            raw = as_own(ask_message(me, manifest=key), "common")
            assert world.refused(me, raw) in {"key_outside_prefix", "key_traversal"}


def test_nobody_reopens_anothers_batch_or_reads_its_rows(world: TenantMatrix) -> None:
    said = {"v": 1, "ask": "batch"}
    for me, other in world.pairs():
        for more in ({}, {"chunk": 0}, {"chunk": 1}):
            raw = said | {"tenant": me.name, "batch": other.ids[3]} | more
            assert world.refused(me, raw) == "batch_unknown"


def test_cancelling_anothers_batch_ends_nothing_of_it(world: TenantMatrix) -> None:
    said = {"v": 1, "ask": "cancel", "requested_by": "tests"}
    for me, other in world.pairs():
        answer = world.ask(me, said | {"tenant": me.name, "batch": other.ids[2]})
        assert (answer["issued"], answer["released"]) == (0, 0)


def test_cancelling_what_another_has_yet_to_ask_does_not_refuse_it(world: TenantMatrix) -> None:
    said = {"v": 1, "ask": "cancel", "requested_by": "tests"}
    ids = {side.name: batch_id() for side in world.sides}
    for side in world.sides:
        world.ask(side, said | {"tenant": side.name, "batch": ids[side.name]})
    for number, (me, other) in enumerate(world.pairs()):
        ask = ("explain", "grants")[number % 2]
        answer = world.ask(other, ask_message(other, batch=ids[me.name], ask=ask))
        assert answer["status"] == {"explain": "explained", "grants": "issued"}[ask]
        assert answer.get("decision", "issue") == "issue"


def test_an_explanation_shows_nothing_of_another(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        rules = world.ask(me, ask_message(me, ask="explain", batch=other.ids[3]))["rules"]
        assert rules[1] == {"rule": "batch", "found": "not seen before"}


def test_nobody_is_called_back_at_anothers_endpoint(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        assert (
            world.refused(me, ask_message(me, callback=f"hook-{other.name}")) == "callback_unknown"
        )


def test_nobody_asks_anything_for_another(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        cancel = {"v": 1, "ask": "cancel", "requested_by": "tests", "batch": other.ids[0]}
        usage = {"v": 1, "ask": "usage"}
        explain = other.second | {"ask": "explain"}
        batch = {"v": 1, "ask": "batch", "batch": other.ids[0]}
        posing = PrivateKey(other.key.id, me.key.signing, me.key.opening)
        for ask in (other.second, explain, cancel, usage, batch, batch | {"chunk": 0}):
            asked = ask | {"tenant": other.name}
            assert world.refused(me, asked) == "tenant_mismatch"
            assert world.refused(me, asked, posing) == "signature_invalid"
            assert world.tell(asked)["refusal"]["code"] == "signature_required"


def test_a_captured_token_cannot_be_given_another_key_or_content(world: TenantMatrix) -> None:
    for me, other in world.pairs():
        head, body, signature = other.captured.split(".")
        mine, content, _ = sign_message(
            other.second | {"tenant": me.name}, me.key, world.clock()
        ).split(".")
        for altered in ((mine, body, signature), (head, content, signature)):
            said = world.tell(".".join(altered))
            assert said["refusal"]["code"] == "signature_invalid"


def test_a_captured_token_sent_again_is_answered_to_its_owner_alone(world: TenantMatrix) -> None:
    again = {side.name: world.service.answer(side.captured).wire for side in world.sides}
    for me, other in world.pairs():
        world.tried += 2
        for sealed in (str(again[other.name]), other.answer):
            assert recipient_key_id(sealed) == other.key.id
            with pytest.raises(InvalidToken):
                unseal(sealed, me.key)


def test_what_is_each_ones_own_works_all_the_while(world: TenantMatrix) -> None:
    for side in world.sides:
        parts = {"kind": "parts", "expires_in": 60, "of": side.upload}
        items = [{"key": f"{side.name}/film", "part": 1}]
        raw = as_own(ask_message(side, grant=parts, items=items), "common")
        assert world.ask(side, raw)["items"][0]["part"] == 1
        first = open_result(side.answer, side.key)
        assert world.ask(side, side.batches[0])["items"] == first["items"]
