"""Two objects of one key in the same second: probes have times in whole seconds."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, select

from models import StoredObject
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import stored
from worker.core.uses.reports import Source
from worker.db.engine import read_transaction
from worker.usecases.uses.record import record_uses

KEY = "acme/a.png"


@pytest.fixture(autouse=True)
def tenant(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config())


@pytest.mark.parametrize("source", ["probe", "event"])
def test_the_object_that_a_probe_sees_later_is_the_newer_one(
    source: Source, engine: Engine, service: InProcessService, clock: Clock
) -> None:
    first, second = (service.issue(upload_message())["items"][0]["id"] for _ in range(2))
    half = timedelta(seconds=0.5 if source == "event" else 0)
    told = stored(first, KEY, clock() + half, source=source, etag="old", size=5)
    record_uses([told], service.context)
    record_uses([stored(second, KEY, clock(), etag="new", size=7)], service.context)
    record_uses([told], service.context)
    with read_transaction(engine) as connection:
        columns = (StoredObject.size, StoredObject.changed_at)
        assert connection.execute(select(*columns)).all() == [(7, clock() + half)]
