"""The metrics that are read from the broker and the result store."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.broker.dead_letters import count_dead_letters
from worker.broker.discards import read_discard_counts
from worker.broker.heartbeats import workers_by_queue
from worker.broker.queues import EVENTS_PREFIX, EVENTS_ROLE, UPKEEP_QUEUE
from worker.broker.sharing.queue_lengths import WAITING, queue_lengths
from worker.commands.metrics.families import PREFIX, Family

_QUEUES = (INTERACTIVE_QUEUE, BULK_QUEUE, UPKEEP_QUEUE)
_LENGTHS = Family(
    "queue_messages",
    f"Messages in a queue. {WAITING} counts those that wait for the turn of their tenant.",
    ("queue",),
)
_DEAD_LETTERS = Family(
    "dead_letters", "Messages that were set aside because a worker failed on them."
)
_WORKERS = Family(
    "workers",
    f"Workers with a fresh heartbeat that consume a queue. {EVENTS_ROLE} counts the queues of event"
    " notifications that are read, once for each worker.",
    ("queue",),
)


def read_broker(client: Any) -> Iterator[Metric]:
    """Yield the lengths of queues. Those of the lanes are added up: anyone can name a lane."""
    lengths = Counter({WAITING: 0, UPKEEP_QUEUE: int(client.llen(UPKEEP_QUEUE))})
    for key, length in queue_lengths(client).items():
        lengths[WAITING if key.startswith(f"{WAITING}:") else key] += length
    yield _LENGTHS.gauge(lengths)
    yield _DEAD_LETTERS.single(count_dead_letters(client))


def read_results(client: Any) -> Iterator[Metric]:
    """Yield the numbers of live workers and of discarded messages."""
    workers = Counter(dict.fromkeys((*_QUEUES, EVENTS_ROLE), 0))
    for queue, names in workers_by_queue(client).items():
        workers[EVENTS_ROLE if queue.startswith(EVENTS_PREFIX) else queue] += len(names)
    yield _WORKERS.gauge({queue: workers[queue] for queue in (*_QUEUES, EVENTS_ROLE)})
    discarded = CounterMetricFamily(
        f"{PREFIX}messages_discarded",
        "Messages that were discarded because a part of them is invalid.",
        labels=("part",),
    )
    for part, count in sorted(read_discard_counts(client).items()):
        discarded.add_metric([part], count)
    yield discarded
