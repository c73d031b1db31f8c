"""Metrics of waiting: histograms of durations, and the lengths and ages of queues and lanes."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from valetkey.wire.waiting import (
    LANE_STATES,
    SERVICE_FIELD,
    WAITING_LANES,
    lane_key,
    lane_name,
    read_lane_state,
)
from worker.base.stages import BOUNDS, SUM, Histogram
from worker.broker.lanes import UNKNOWN_TENANT
from worker.broker.queues import Heartbeat, lane_depths, waiting_lanes
from worker.core import UPKEEP_QUEUE
from worker.doctor.latencies import LABELS, read_latencies
from worker.shared.monitoring import PREFIX, Family

_HISTOGRAMS: dict[Histogram, Family] = {
    "queue_wait": Family(
        "queue_wait_seconds",
        "Time from when a client wrote a message until a worker process began it, by the queue that"
        " it was taken from.",
        ("queue",),
        "histogram",
    ),
    "stage": Family(
        "stage_seconds",
        "Duration of a stage of issuing a message: authenticate, decide (the rules of a request's"
        " header), sign (credentials, items, signatures, starts of multipart uploads), database"
        " (the statements of the transaction) or commit.",
        ("stage",),
        "histogram",
    ),
    "request": Family(
        "request_seconds",
        "Time from when a client first wrote a message until its result was stored, by the queue"
        " that it was taken from.",
        ("queue",),
        "histogram",
    ),
    "webhook_delay": Family(
        "webhook_delay_seconds",
        "Time from when a webhook was first due until its endpoint took it.",
        type="histogram",
    ),
}
_BOUNDS = (*map(floatToGoString, BOUNDS), "+Inf")


def read_histograms(client: Any) -> Iterator[Metric]:
    """Yield the histograms of the durations that workers have written into the result store."""
    numbers = read_latencies(client)
    for name, (suffix, text, labels, _) in _HISTOGRAMS.items():
        family = HistogramMetricFamily(PREFIX + suffix, text, labels=labels)
        for label in LABELS[name]:
            series = numbers[name, label]
            buckets = [*zip(_BOUNDS, accumulate(series[:SUM]), strict=True)]
            family.add_metric([label] if labels else [], buckets, series[SUM] / 1_000_000)
        yield family


_LENGTHS = Family(
    "queue_messages",
    f"Messages in a queue. {WAITING_LANES} counts those that wait for the turn of their tenant.",
    ("queue",),
)
_AGES = Family(
    "queue_oldest_age_seconds",
    "Age of the oldest message in a queue, 0 if there is none, or if it does not say when it was"
    " sent.",
    ("queue",),
)
_LANE_LENGTHS = Family(
    "lane_messages",
    f"Messages that wait for the turn of their tenant, by the queue that they were sent to."
    f" {UNKNOWN_TENANT} counts those of no configured tenant.",
    ("tenant", "queue"),
)
_LANE_AGES = Family(
    "lane_oldest_age_seconds",
    "Age of the oldest message that waits for the turn of its tenant.",
    ("tenant", "queue"),
)
_LANE_LIMIT = Family("lane_limit", "Messages of a tenant that may wait for its turn.", ("tenant",))
_BUSY = Family("busy", "1 while clients of a tenant are refused as busy, else 0.", ("tenant",))


_MAX_OTHER_LANES = 1_000  # more than the fair queue makes; to look at a million would stop Redis


def read_queues(client: Any, tenants: Collection[str]) -> Iterator[Metric]:
    """Yield the lengths and ages of queues, and those of lanes by configured tenant.

    Anyone can name a lane: what waits for other names is added up.
    """
    lanes = {
        lane_name(tenant, is_bulk=is_bulk): (tenant, BULK_QUEUE if is_bulk else INTERACTIVE_QUEUE)
        for tenant in sorted(tenants)
        for is_bulk in (False, True)
    }
    for lane in waiting_lanes(client)[:_MAX_OTHER_LANES]:
        queue = BULK_QUEUE if lane.endswith(".bulk") else INTERACTIVE_QUEUE
        lanes.setdefault(lane, (UNKNOWN_TENANT, queue))
    queues = (INTERACTIVE_QUEUE, BULK_QUEUE, UPKEEP_QUEUE)
    depths = lane_depths(client, [*queues, *map(lane_key, lanes)])
    lengths, ages = Counter[tuple[str, str]](), defaultdict[tuple[str, str], float](float)
    for lane, key in lanes.items():
        length, age = depths[lane_key(lane)]
        lengths[key] += length
        ages[key] = max(ages[key], age or 0.0)
    waiting = {WAITING_LANES: lengths.total()}
    oldest = {WAITING_LANES: max(ages.values(), default=0.0)}
    yield _LENGTHS.samples({queue: depths[queue][0] for queue in queues} | waiting)
    yield _AGES.samples({queue: depths[queue][1] or 0.0 for queue in queues} | oldest)
    yield _LANE_LENGTHS.samples(lengths)
    yield _LANE_AGES.samples(ages)
    yield from _read_limits(client, sorted(tenants))


def _read_limits(client: Any, tenants: Collection[str]) -> Iterator[Metric]:
    """Yield what clients read before they send."""
    fields = [SERVICE_FIELD, *tenants]
    is_hash = client.type(LANE_STATES) == b"hash"
    service, *own = client.hmget(LANE_STATES, fields) if is_hash else [None] * len(fields)
    limits, busy = dict[str, int](), dict.fromkeys(tenants, False)
    for tenant, value in zip(tenants, own, strict=True):
        for is_bulk in (False, True):
            state = read_lane_state((value, service), lane_name(tenant, is_bulk=is_bulk))
            if state is not None:
                limits[tenant] = state.max_messages
                busy[tenant] |= state.busy is not None
    yield _LANE_LIMIT.samples(limits)
    yield _BUSY.samples(busy)


_MAX_WORKERS = 1_000
_LABEL = re.compile(r"[\w.@+-]{1,255}")
_WORKER_INFO = Family(
    "worker_info",
    "1 for each worker with a fresh heartbeat.",
    ("worker", "role", "host", "pid", "release"),
)


def worker_info(heartbeats: Collection[Heartbeat]) -> Metric:
    """Return what is known of live workers. Texts that no worker writes are replaced by `?`."""
    texts = (
        (each.worker, each.role, each.host, str(each.pid), each.release)
        for each in [*heartbeats][:_MAX_WORKERS]
    )
    return _WORKER_INFO.samples(
        {tuple(text if _LABEL.fullmatch(text) else "?" for text in each): 1 for each in texts}
    )
