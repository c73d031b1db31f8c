"""An audit log whose oldest month can be pruned."""

from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, insert, select

from models import Checkpoint, TreeHead
from tests.integration.conftest import ApplyConfig
from tests.support.audit_log.pruned_log import KEPT, OLD, RunPrune
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker import clock as system_clock
from worker.base.database_engine import write_transaction
from worker.base.jobs import ProblemLog
from worker.base.month_partitions import add_months, create_partitions
from worker.proof.prune_command import prune_log
from worker.shared.months import first_moment, format_month


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.time = first_moment(OLD) + timedelta(days=3)
    return clock


@pytest.fixture
def old(service: InProcessService, apply_config: ApplyConfig, clock: Clock) -> dict[str, Any]:
    """The request for a batch that was issued in the old month; two grants, one refusal."""
    apply_config(tenant_config())
    request = grant_message(["acme/a", "elsewhere", "acme/c"])
    assert service.issue(request)["status"] == "issued"
    clock.time = first_moment(KEPT) + timedelta(days=3)
    service.issue(grant_message(["acme/kept"]))
    return request


@pytest.fixture
def run(
    engine: Engine,
    old: dict[str, Any],  # noqa: ARG001 - it is issued before the clock moves on
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> RunPrune:
    """Run `audit prune` some months later, with options, after a checkpoint of each tree."""
    clock.time = first_moment(add_months(KEPT, 2))
    create_partitions(engine, clock(), ProblemLog())
    monkeypatch.setattr(system_clock, "now", clock)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    with write_transaction(engine) as connection:
        for tenant, size in connection.execute(select(TreeHead.tenant, TreeHead.size)).all():
            values = {"size": size, "root": bytes(32), "signed_at": clock(), "note": "note"}
            connection.execute(insert(Checkpoint).values(tenant=tenant, **values))

    def prune(*words: str, before: int | str = KEPT) -> Result:
        month = before if isinstance(before, str) else format_month(before)
        return CliRunner().invoke(prune_log, ["--before", month, *words])

    return prune
