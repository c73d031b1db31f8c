from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Use
from tests.integration.conftest import ApplyConfig
from tests.integration.uses.probes.conftest import BUCKET, config
from tests.support.builders.services import InProcessService
from tests.support.s3.unreliable_storage import SLOW_DOWN, UnreliableStorage
from tests.support.uses.uploading import Uploader
from valetkey.wire.replies import Grant
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction
from worker.db.uses.used_grants import find_used_grants
from worker.errors import Transient
from worker.usecases.uses.probe import probe_grants

Probe = Callable[..., None]


@pytest.fixture
def probe(service: InProcessService) -> Probe:
    def run(*grants: Grant) -> None:
        current = service.context.config.current()
        with read_transaction(service.context.engine) as connection:
            found = find_used_grants(connection, [grant.id for grant in grants], current)
        probe_grants([found[grant.id][0] for grant in grants], service.context)

    return run


def uses(engine: Engine, *columns: Any) -> list[tuple[Any, ...]]:
    with read_transaction(engine) as connection:
        return [
            tuple(row) for row in connection.execute(select(*columns).order_by(Use.item_number))
        ]


def asked_for(storage: UnreliableStorage) -> list[str]:
    """Return the names of the objects that storage was asked for."""
    return [request.target.rpartition("/")[2] for request in storage.server.requests("HEAD")]


def test_a_form_a_put_and_a_multipart_upload_are_recorded_as_storage_has_them(
    engine: Engine, uploader: Uploader, probe: Probe
) -> None:
    grants = [
        uploader.form("acme/form", content_type="image/png"),
        uploader.put("acme/put", 3, content_type="image/png"),
        uploader.multipart("acme/parts", 12, content_type="image/png"),
    ]
    for grant, body in zip(grants, (b"12345", b"123", b"123456789012"), strict=True):
        uploader.store(grant, body)
    probe(*grants)
    columns = (Use.event, Use.source, Use.verdict, Use.size, Use.content_type)
    assert sorted(uses(engine, *columns)) == [
        ("completed", "probe", "as_granted", 12, "image/png"),
        ("stored", "probe", "as_granted", 3, "image/png"),
        ("stored", "probe", "as_granted", 5, "image/png"),
    ]


def test_an_object_that_is_not_there_is_no_use(
    engine: Engine, uploader: Uploader, probe: Probe, storage: UnreliableStorage
) -> None:
    probe(uploader.form("acme/nothing"))
    assert asked_for(storage) == ["nothing"]
    assert uses(engine, Use.fingerprint) == []


def test_an_object_of_another_grant_is_recorded_for_that_one(
    engine: Engine, uploader: Uploader, probe: Probe
) -> None:
    first, second = uploader.form("acme/same"), uploader.multipart("acme/same", 4)
    uploader.store(second, b"1234")
    probe(first)
    ((batch_number, event),) = uses(engine, Use.batch_number, Use.event)
    assert (batch_number, event) == (2, "completed")


def test_an_object_that_no_grant_stored_is_recorded_for_none(
    engine: Engine, uploader: Uploader, probe: Probe, owner: Any, storage: UnreliableStorage
) -> None:
    grant = uploader.form("acme/foreign")
    owner.put_object(Bucket=BUCKET, Key="acme/foreign", Body=b"x")
    probe(grant)
    assert asked_for(storage) == ["foreign"]
    assert uses(engine, Use.fingerprint) == []


def test_a_form_whose_client_chooses_the_name_is_not_probed(
    uploader: Uploader, probe: Probe, storage: UnreliableStorage
) -> None:
    probe(*uploader.request("upload", "acme/${filename}", "acme/named"))
    assert asked_for(storage) == ["named"]


def test_no_request_is_sent_where_the_profile_allows_none(
    uploader: Uploader, probe: Probe, storage: UnreliableStorage, apply_config: ApplyConfig
) -> None:
    grant = uploader.form("acme/form")
    probe(grant)
    silent = {name: replace(b, probe_rate=0) for name, b in config().buckets.items()}
    apply_config(TenantConfig(silent, config().tenants))
    probe(grant)
    assert asked_for(storage) == ["form"]  # before the profile allowed none


def test_what_was_found_before_storage_failed_is_recorded(
    engine: Engine, uploader: Uploader, probe: Probe, storage: UnreliableStorage
) -> None:
    grants = uploader.request("upload", "acme/first", "acme/second")
    for grant in grants:
        uploader.store(grant, b"1234567890")
    storage.interfere = lambda request, forward: (
        SLOW_DOWN if "second" in request.target else forward()
    )
    with pytest.raises(Transient):
        probe(*grants)
    assert uses(engine, Use.item_number) == [(0,)]
