"""Facts on which refunds rest: usage stays at zero or above, and the largest object counts."""

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, tenant_config, upload_message
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import stored
from worker.core.quotas.cost import NO_COST
from worker.db.engine import read_transaction, write_transaction
from worker.db.usage import charge, give_back_bytes, read_usage
from worker.db.uses.settlements import read_stored_sizes
from worker.usecases.uses.record import record_uses


@pytest.mark.parametrize(("returned", "left"), [(30, 70), (100, 0), (150, 0)])
def test_bytes_that_are_given_back_leave_no_usage_below_zero(
    engine: Engine, clock: Clock, returned: int, left: int
) -> None:
    with write_transaction(engine) as connection:
        charge(connection, "acme", NO_COST._replace(upload_bytes=100), clock())
        give_back_bytes(connection, [("acme", clock(), returned)])
        usage = read_usage(connection, "acme", clock())
    assert {window: cost.upload_bytes for window, cost in usage.items()} == {
        "minute": left,
        "hour": left,
        "day": left,
        "month": left,
        "live": 100,
    }


@pytest.mark.parametrize("sizes", [(10, 30, 20), (30, 10)])
def test_of_several_objects_of_an_item_the_largest_is_charged(
    engine: Engine,
    service: InProcessService,
    apply_config: ApplyConfig,
    clock: Clock,
    sizes: tuple[int, ...],
) -> None:
    apply_config(tenant_config())
    (grant,) = service.issue(upload_message(["acme/a.png"]))["items"]
    for size in sizes:
        clock.forward(seconds=1)
        report = stored(grant["id"], "acme/a.png", clock(), size=size, etag=str(size))
        record_uses([report], service.context)
    with read_transaction(engine) as connection:
        assert read_stored_sizes(connection, 1, [0]) == {0: 30}
