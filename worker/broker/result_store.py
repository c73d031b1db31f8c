"""Celery's result store in Redis, and the results of messages that the guard discards.

A result is written in one round trip, and kept for its life. It names the request that it responds
to, and a script that Redis runs atomically replaces no result of another request.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Any

import redis
import structlog
from celery import Celery, states
from celery.backends.redis import RedisBackend
from celery.exceptions import BackendError, BackendStoreError, Retry
from kombu.exceptions import KombuError
from redis.commands.core import Script

from valetkey.delivery.causes import describe_cause
from valetkey.delivery.redis_clients import open_redis
from valetkey.redis_urls import parse_sentinel_url, redact_url
from valetkey.wire.messages import BUNDLE_TASK_PREFIX
from valetkey.wire.messages import task_id as chunk_task_id
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Outcome
from worker import clock
from worker.broker.celery_internals import result_meta
from worker.broker.message_guard import ExpiredMessage, InvalidMessage
from worker.broker.queues import RESULT_INDEX
from worker.errors import Transient
from worker.rules.decisions import Reply

DISCARD_COUNTER = "valetkey.discarded"
IGNORED_TRACES = "header:traceparent"  # in the same hash, and no name of a part of a message
_SUCCESS = '{"status": "SUCCESS", "request": '  # begins each stored reply; a name or null follows
_STORE_ERRORS = (redis.RedisError, BackendError, KombuError, OSError)

_SOCKET_OPTIONS = {
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval")
}

log = structlog.get_logger()


class MessageSetAside(Exception):
    """A worker process ended while it had this message. Send the request again."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


def report_discard(error: InvalidMessage, queue: str, app: Celery) -> None:
    """Log and count a discarded message, and store a refusal for its sender if its id is known.

    Nothing of the message's content is logged or counted.
    """
    log.warning("message_discarded", part=error.part, queue=queue, task=error.task_id)
    try:
        if error.task_id is not None:
            app.backend.store_result(error.task_id, _refusal_values(error), "SUCCESS")
        # Last: a key of another type, which others can write, fails it.
        app.backend.client.hincrby(DISCARD_COUNTER, error.part, 1)
    except _STORE_ERRORS as failure:
        log.warning("discard_not_reported", problem=type(failure).__name__)


def count_ignored_trace(app: Celery) -> None:
    """Count a message that was processed without its invalid `traceparent` header."""
    try:
        app.backend.client.hincrby(DISCARD_COUNTER, IGNORED_TRACES, 1)
    except _STORE_ERRORS as error:
        log.warning("ignored_trace_not_counted", problem=type(error).__name__)


def drop_answered_copy(task_id: str, app: Celery) -> bool:
    """Return true for a task with a stored reply, and count the copy of its message as discarded.

    Nothing would replace the reply, and its sender finds it in the store.
    """
    store = app.backend.client
    try:
        key = app.backend.get_key_for_task(task_id)
        is_answered: bool = store.getrange(key, 0, len(_SUCCESS)) == f'{_SUCCESS}"'.encode()
        if is_answered:
            store.hincrby(DISCARD_COUNTER, "copy", 1)
    except _STORE_ERRORS as error:
        log.warning("reply_not_looked_up", problem=type(error).__name__)
        return False
    return is_answered


def report_failure(task_id: str, app: Celery) -> None:
    """Fail the task of a dead-lettered message, so that its sender waits no longer."""
    try:
        app.backend.store_result(task_id, MessageSetAside(), "FAILURE")
    except _STORE_ERRORS as failure:
        log.warning("failure_not_reported", problem=type(failure).__name__)


def _refusal_values(error: InvalidMessage) -> dict[str, Any]:
    if isinstance(error, ExpiredMessage):  # our client writes the deadline there
        text = "the deadline has passed"
        refusal = Refusal(code=Code.DEADLINE_PASSED, field="deadline", message=text)
    else:
        refusal = _invalid_part(error.part)
    outcome = Outcome(batch="", chunk=0, status="refused", refusal=refusal)
    return outcome.model_dump(mode="json", exclude_none=True)


def _invalid_part(part: str) -> Refusal:
    return Refusal(
        code=Code.MESSAGE_INVALID,
        field=part,
        message="this part of the Celery message is missing, too large, or not one that the "
        "service accepts: see docs/contract.md",
    )


STORE_SCRIPT = f"""
local pattern = '^{_SUCCESS}([%w"]+)'
local head = redis.pcall('GETRANGE', KEYS[1], 0, 127)
local stored = type(head) == 'string' and string.match(head, pattern)
local new = string.match(ARGV[1], pattern)
local is_known = new and new ~= 'null'
local is_stored = not stored or (is_known and (stored == 'null' or stored == new))
if is_stored then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
if is_stored or is_known then
  redis.call('PUBLISH', KEYS[1], ARGV[1])
end
return is_stored and 1 or 0
"""
"""KEYS: result, which is also its channel. ARGV: value, seconds. Returns 1 if it is stored, else 0.

A success that names a request replaces successes of the same request, and those of request null.
A success of request null, which is the refusal of a message whose sender is unknown, replaces no
success. A success that names a request is announced even if it is not stored: its sender listens.
"""


def request_name(tenant: str | None, values: Mapping[str, Any]) -> str | None:
    """Return the name of the request of a response; None if its result replaces no other one.

    tenant is the authenticated sender. The name is equal for every response to the same request.
    """
    # The batch belongs to another request of the tenant, whose result stays.
    is_conflict = values.get("refusal", {}).get("code") == Code.BATCH_CONFLICT
    if tenant is None or is_conflict:
        return None
    parts = tenant, values.get("batch"), values.get("chunk")
    return sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


class ResultStore(RedisBackend):  # type: ignore[misc] # Celery's RedisBackend has no types
    """Results that expire together with the first of their grants.

    The task's request has `request_name`, see that function, and `expires_at`, the time at which
    the first grant expires, if there is any.
    """

    def _params_from_url(self, url: str, defaults: Any) -> Any:
        if parse_sentinel_url(url) is None:
            return super()._params_from_url(url, defaults)
        return defaults

    def _create_client(self, **params: Any) -> Any:
        if self.url is None or parse_sentinel_url(self.url) is None:
            return super()._create_client(**params)
        options = {name: value for name, value in params.items() if name in _SOCKET_OPTIONS}
        return open_redis(self.url, **options)

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002, FBT001, FBT002 - Celery's
        """Return the URL without secrets."""
        return redact_url(self.url)

    def mark_as_done(self, task_id: str, *args: Any, **options: Any) -> None:
        """Store and announce the result of a task, or log that it is lost.

        What was decided is committed, and a producer without a result sends its message again. With
        an error, Celery would skip what follows an answer, and let the worker's main process, which
        all messages wait for, try to store the error.
        """
        try:
            super().mark_as_done(task_id, *args, **options)
        except (redis.RedisError, BackendStoreError) as error:
            log.warning("result_not_stored", task=task_id, problem=describe_cause(error))

    def mark_as_retry(self, task_id: str, exc: BaseException, *args: Any, **options: Any) -> Any:
        """Store why the service tries a task again.

        Stores nothing of a task that Celery cancels because the broker is lost. Celery would try
        that for 25 s in the worker's main process, task after task, which can neither stop nor
        report its progress meanwhile.
        """
        if isinstance(exc, Retry):  # Task.retry() gives the cause instead
            return None
        return super().mark_as_retry(task_id, exc, *args, **options)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        """Store and announce a result, unless one of another request is stored under its task id.

        The result of the same request is replaced: it has the same grants, and the producer may be
        unable to read what is stored.
        """
        name = getattr(request, "request_name", None) if state == states.SUCCESS else None
        if name is not None:
            self._index(task_id, getattr(request, "batches", ()))
        meta = result_meta(self, result, state, traceback, request)
        # The script reads the first two members.
        values = {"status": state, "request": name} | meta | {"task_id": task_id}
        key, seconds = self.get_key_for_task(task_id), _seconds_kept(request, self.expires)
        self.set(key, self.encode(values), expires=seconds)
        return result

    def _index(self, task_id: str, batches: Iterable[str]) -> None:
        """Record for each batch that a result has grants of it. `revoke` finds the result by that.

        Before the result is stored: afterwards, a revocation could miss it.
        """
        with self.client.pipeline(transaction=False) as pipe:
            for batch_id in batches:
                pipe.sadd(RESULT_INDEX + batch_id, task_id)
                pipe.expire(RESULT_INDEX + batch_id, self.expires)  # no result is kept longer
            pipe.execute()

    def announce(self, task_id: str, text: str) -> int:
        """Publish a text, which is not stored, on the channel of a task's result.

        Returns the number of clients that received it. Raises Transient.
        """
        try:
            received: int = self.client.publish(self.get_key_for_task(task_id), text)
        except _STORE_ERRORS as error:
            problem = f"the result store cannot be used: {describe_cause(error)}"
            raise Transient(problem) from None
        return received

    @cached_property
    def _store(self) -> Script:
        return Script(self.client, STORE_SCRIPT)

    def _set(self, key: bytes, value: str, expires: int) -> None:
        """Write a value and announce it, if the script lets it replace what is stored."""
        if not self._store([key], [value, expires], client=self.client):
            task_id = key.removeprefix(self.task_keyprefix).decode()
            problem = "a result that this one may not replace is stored under this task id"
            log.warning("result_not_stored", task=task_id, problem=problem)


def unnamed_batches(task_id: str, outcomes: Iterable[Reply]) -> list[str]:
    """Return the batches whose grants a result has, although its task id does not name them.

    Chunks and bundles name theirs. Reissued grants and chunks do not, and producers of their own
    make need not.
    """
    if task_id.startswith(BUNDLE_TASK_PREFIX):
        return []
    return [
        batch_id
        for values, *_, expires_at, _ in outcomes
        if expires_at is not None
        and task_id != chunk_task_id(batch_id := values["batch"], values["chunk"])
    ]


def _seconds_kept(request: Any, longest: int) -> int:
    expires_at: datetime | None = getattr(request, "expires_at", None)
    if expires_at is None:
        return longest
    return max(min(int((expires_at - clock.now()).total_seconds()), longest), 1)
