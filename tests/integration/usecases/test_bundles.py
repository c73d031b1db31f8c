"""A bundle of requests has the outcomes, rows and charges of the same requests one by one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from models import Base, Batch, Chunk, Delivery, Grant, Leaf, RejectionCount, Reservation, Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.bundles import issue_all, issue_each, refusal_codes
from tests.support.builders.messages import Clock, grant_message, put_message, upload_message
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import ACME_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message
from tests.support.servers.databases import migrated_file
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, TenantConfig
from worker.db import tenants
from worker.db.engine import create_database_engine, read_transaction, write_transaction
from worker.usecases import issue_bundle
from worker.usecases.audit.verification.verify import VerifyOptions, verify_log

TABLES = (Batch, Chunk, Grant, Usage, Reservation, Delivery, Leaf, RejectionCount)
QUOTAS = (Quota("grants", "day", 7, warn_at=2), Quota("upload_bytes", "live", 1_200_000))
CONFIG = config_with_keys(ACME_KEY, quotas=QUOTAS)


def rows(engine: Engine, *tables: type[Base]) -> list[list[tuple[Any, ...]]]:
    """Return all rows of these tables, without the digests of messages."""
    unequal = {"last_digest"}  # a message alone is counted by its token
    with read_transaction(engine) as connection:
        return [
            [
                tuple(value for name, value in row._mapping.items() if name not in unequal)
                for row in connection.execute(select(table).order_by(*table.__table__.primary_key))
            ]
            for table in tables
        ]


@pytest.fixture
def service(apply_config: ApplyConfig, service: InProcessService) -> InProcessService:
    apply_config(CONFIG)
    return service


@pytest.fixture
def alone(tmp_path: Path, clock: Clock, service: InProcessService) -> Iterator[InProcessService]:
    """The service over another database with the same tenants: same ids and numbers."""
    url = migrated_file(tmp_path / "alone.db")
    engine = create_database_engine(url)
    with write_transaction(engine) as connection:
        tenants.store_config(connection, TenantConfig({}), stored_config(service), clock())
    yield services.build_service(engine, S3Clients(), clock)
    engine.dispose()


def stored_config(service: InProcessService) -> TenantConfig:
    return service.context.config.current()


def mixed_messages() -> list[Any]:
    """Return requests of each kind, of which some are refused: whole, in part, or as malformed."""
    return [
        grant_message(["acme/a.pdf"]),
        grant_message(["acme/b.pdf", "globex/c.pdf"], callback="hook"),
        upload_message(["acme/d.png"]),
        grant_message(["acme/x"], deadline="2020-01-01T00:00:00Z"),
        upload_message(["acme/too.png", "acme/many.png"]),  # 1,500,000 bytes with the upload above
        put_message({"acme/e.png": 700}),
        grant_message(["acme/1", "acme/2", "acme/3", "acme/4", "acme/5"]),  # more than are left
        grant_message(["acme/f.pdf"], requested_by=""),
        grant_message(["acme/g.pdf"]),
    ]


def test_a_bundle_is_decided_as_its_messages_one_by_one(
    engine: Engine, service: InProcessService, alone: InProcessService, clock: Clock
) -> None:
    messages = mixed_messages()
    one_by_one = issue_each(alone, clock, *messages[:-2], messages[-1], messages[-2])
    one_by_one = [*one_by_one[:-2], one_by_one[-1], one_by_one[-2]]
    together = issue_all(service, clock, *messages)
    assert refusal_codes(together) == [
        *(None, None, None, "deadline_passed", "quota_exceeded", None, "quota_exceeded"),
        *("malformed", None),
    ]
    assert together == one_by_one
    assert rows(engine, *TABLES) == rows(alone.context.engine, *TABLES)
    assert verify_log(engine.url.render_as_string(hide_password=False), VerifyOptions()).is_sound


def test_a_bundle_delivered_again_has_the_same_grants_and_charges_nothing(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    messages = mixed_messages()
    first = issue_all(service, clock, *messages)
    before = rows(engine, *TABLES[:-1])
    clock.forward(seconds=20)
    again = issue_all(service, clock, *messages)
    assert [outcome["items"] for outcome in again] == [outcome["items"] for outcome in first]
    assert refusal_codes(again) == refusal_codes(first)
    assert rows(engine, *TABLES[:-1]) == before


def test_a_message_of_a_bundle_sent_again_alone_has_the_same_grants_and_charges_nothing(
    engine: Engine, service: InProcessService, clock: Clock
) -> None:
    messages = [grant_message(), grant_message()]
    first = issue_all(service, clock, *messages)
    before = rows(engine, *TABLES)
    assert issue_each(service, clock, *messages) == [
        outcome | {"quotas": first[1]["quotas"]} for outcome in first
    ]
    assert rows(engine, *TABLES) == before


def test_batches_that_are_known_are_answered_by_what_was_committed_beside_new_ones(
    service: InProcessService, clock: Clock
) -> None:
    known, used_before, cancelled, new = (grant_message() for _ in range(4))
    (first,) = issue_each(service, clock, known)
    issue_each(service, clock, used_before)
    cancel = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "tests"}
    service.issue(sign_message(cancel | {"batch": cancelled["batch"]}, ACME_KEY, clock()))
    conflict = used_before | {"items": [{"key": "acme/other"}]}
    other = new | {"items": [{"key": "acme/other"}]}
    outcomes = issue_all(service, clock, known, conflict, new, cancelled, new, other)
    expected = [None, "batch_conflict", None, "batch_closed", None, "batch_conflict"]
    assert refusal_codes(outcomes) == expected
    assert outcomes[0]["items"] == first["items"]
    assert outcomes[2] == outcomes[4]
    assert [outcome["quotas"][0]["used"] for outcome in outcomes] == [3] * 6


@pytest.mark.usefixtures("service")
def test_bundles_at_the_same_time_are_charged_once(engine: Engine, clock: Clock) -> None:
    url = engine.url.render_as_string(hide_password=False)
    engines = [create_database_engine(url) for _ in range(3)]
    workers = [services.build_service(each, S3Clients(), clock) for each in engines]
    messages = [grant_message([f"acme/{number}"]) for number in range(7)]
    orders = [messages, messages[::-1], messages[3:] + messages[:3]]
    with ThreadPoolExecutor(3) as pool:
        replies = list(
            pool.map(lambda worker, order: issue_all(worker, clock, *order), workers, orders)
        )
    for each in engines:
        each.dispose()
    items = {outcome["batch"]: outcome["items"] for outcomes in replies for outcome in outcomes}
    assert all(
        outcome["items"] == items[outcome["batch"]] for outcomes in replies for outcome in outcomes
    )
    assert len(rows(engine, Batch)[0]) == 7
    with read_transaction(engine) as connection:
        assert set(connection.scalars(select(Usage.grants))) == {7}


def test_if_the_common_transaction_fails_each_message_has_its_own(
    engine: Engine, service: InProcessService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise IntegrityError("INSERT", {}, ValueError())

    monkeypatch.setattr(issue_bundle, "insert_new_batches", fail)
    outcomes = issue_all(service, clock, grant_message(), grant_message())
    assert [outcome["quotas"][0]["used"] for outcome in outcomes] == [1, 2]
    assert len(rows(engine, Batch)[0]) == 2


def test_of_known_batches_only_some_are_answered_and_all_new_ones(
    service: InProcessService, clock: Clock
) -> None:
    known, *new = (grant_message() for _ in range(4))
    outcomes = issue_all(service, clock, *[known] * 20, *new)
    answered = [outcome["batch"] for outcome in outcomes]
    assert answered == [*[known["batch"]] * 9, *(message["batch"] for message in new)]
