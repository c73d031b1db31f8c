"""Limits of short windows cannot be saved up in batches that stay open, and used in one burst."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import Clock, grant_message, split_chunks, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.quota_model.tables import charged, reserved
from valetkey.wire.refusals import Window
from worker.core.tenants.config import Quota
from worker.db import reservations
from worker.usecases.upkeep.cleanup import clean_up

LIMIT = 100


def open_batches(service: InProcessService, clock: Clock, gap: timedelta) -> list[dict[str, Any]]:
    """Open a batch of the whole limit in each of five windows; return the chunks left for later.

    The second chunk, of one item, opens a batch; the first one has all other items.
    """
    saved = []
    for number in range(5):
        clock.time += gap if number else timedelta(0)
        large, small = split_chunks(grant_message([f"acme/{n}" for n in range(LIMIT)]), LIMIT - 1)
        assert service.issue(small)["status"] == "issued"
        saved.append(large)
    return saved


@pytest.mark.parametrize(
    ("window", "gap"), [("minute", timedelta(minutes=1)), ("hour", timedelta(hours=1))]
)
def test_the_limits_of_five_windows_cannot_be_used_in_one_burst(
    apply_config: ApplyConfig,
    service: InProcessService,
    clock: Clock,
    window: Window,
    gap: timedelta,
) -> None:
    apply_config(tenant_config(Quota("grants", window, LIMIT)))
    saved = open_batches(service, clock, gap)
    outcomes = [service.issue(chunk) for chunk in saved]
    issued = sum(len(outcome["items"]) for outcome in outcomes)
    assert issued <= 2 * LIMIT
    codes = [outcome.get("refusal", {}).get("code") for outcome in outcomes]
    assert codes == ["batch_closed"] * 4 + [None]


def test_a_batch_stays_open_for_one_window_with_a_limit_and_is_closed_before_any_cleanup(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(tenant_config(Quota("grants", "minute", LIMIT), Quota("grants", "day", 10**6)))
    clock.forward(seconds=30)
    one, two, three = split_chunks(grant_message(["acme/a", "acme/b", "acme/c"]), 1)
    service.issue(one)
    clock.forward(seconds=59)
    assert service.issue(two)["status"] == "issued"
    clock.forward(seconds=1)
    reopen = {"v": 1, "ask": "batch", "tenant": "acme", "batch": one["batch"]}
    assert service.issue(reopen)["refusal"]["code"] == "batch_closed"
    assert service.issue(three | {"ask": "explain"})["decision"] == "refuse"
    assert service.issue(three)["refusal"]["code"] == "batch_closed"
    assert service.issue(two)["status"] == "issued"  # again


def test_the_charge_of_what_arrived_too_late_is_released(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(tenant_config(Quota("grants", "minute", LIMIT)))
    one, two, _ = split_chunks(grant_message(["acme/a", "acme/b", "acme/c"]), 1)
    service.issue(one)
    clock.forward(minutes=1)
    service.issue(two)
    assert reserved(engine) == [(reservations.REMAINING, 2, 2), (0, 1, 1)]
    clean_up(service.context)
    assert reserved(engine) == [(0, 1, 1)]
    assert [charged(engine, window) for window in ("minute", "live")] == [1, 1]


def test_a_batch_keeps_the_time_for_which_it_was_opened(
    apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(tenant_config())
    one, two = split_chunks(grant_message(["acme/a", "acme/b"]), 1)
    service.issue(one)
    apply_config(tenant_config(Quota("grants", "minute", LIMIT)))
    clock.forward(hours=23)
    assert service.issue(two)["status"] == "issued"
