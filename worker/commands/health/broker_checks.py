"""The checks of `doctor` that contact the broker and the result store."""

from collections.abc import Iterator

from celery import Celery

from worker.broker import status
from worker.broker.dead_letters import count_dead_letters
from worker.broker.discards import read_discard_counts
from worker.broker.sharing.queue_lengths import LEASE, queue_lengths
from worker.commands.broker import open_broker, open_results
from worker.commands.health.attempts import CHECK_TIMEOUT, attempt
from worker.commands.health.checks import Check, check_consumers, check_messages, check_queues
from worker.settings import Settings


def broker_checks(settings: Settings) -> Iterator[Check]:
    """Check the servers of queues and results, the queues, the workers and what they discarded."""
    urls = settings.broker_url.get_secret_value(), settings.result_url.get_secret_value()
    with status.inspect_app(*urls) as app:
        hint = "is VALETKEY_RESULT_URL right, and is the server running?"
        error = attempt("results", hint, lambda: status.check_results(app))
        yield error or Check("results", "ok", "reachable")
        hint = "is VALETKEY_BROKER_URL right, and is the server running?"
        error = attempt("broker", hint, lambda: status.check_broker(app, CHECK_TIMEOUT))
        yield error or Check("broker", "ok", "reachable")
        if error is None:
            yield attempt("queues", hint, _read_queue_check)
            yield from _worker_checks(app)
            yield attempt("messages", hint, _read_message_check)


def _worker_checks(app: Celery) -> Iterator[Check]:
    hint = "are the workers running?"
    consumers = attempt("workers", hint, lambda: status.workers_by_queue(app))
    yield from [consumers] if isinstance(consumers, Check) else check_consumers(consumers)


def _read_queue_check() -> Check:
    with open_broker() as client:
        return check_queues(queue_lengths(client), is_served=client.pttl(LEASE) >= 0)


def _read_message_check() -> Check:
    with open_results() as client:
        discarded = read_discard_counts(client)
    with open_broker() as client:
        return check_messages(discarded, count_dead_letters(client))
