"""Celery's result store in Redis, in which a result is written in one round trip, for its life."""

from datetime import datetime
from typing import Any

import redis
import structlog
from celery import states
from celery.backends.redis import RedisBackend
from celery.exceptions import BackendStoreError

from valetkey.delivery.causes import describe_cause
from worker import clock

log = structlog.get_logger()


class ResultStore(RedisBackend):  # type: ignore[misc] # Celery's RedisBackend has no types
    """Results that expire together with the first of their grants.

    `expires_at` of the task's request is the time at which that grant expires, if there is any.
    """

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

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **options: Any,
    ) -> Any:
        """Store and announce a result.

        Celery first reads the stored one, so that nothing replaces SUCCESS. The result of a task
        may: it has the same grants, and the producer may be unable to read what is stored.
        """
        if state != states.SUCCESS or request is None:
            return super()._store_result(task_id, result, state, traceback, request, **options)
        meta = self._get_result_meta(result, state, traceback, request)
        meta["task_id"] = task_id
        key = self.get_key_for_task(task_id)
        self.set(key, self.encode(meta), expires=_seconds_kept(request, self.expires))
        return result

    def _set(self, key: str, value: str, expires: int | None = None) -> None:
        """Write a value and announce it, in one packet."""
        # Not as a transaction, for which the server and redis-py do twice the work: a value that
        # is not announced is found by the producer's next look.
        with self.client.pipeline(transaction=False) as pipe:
            pipe.set(key, value, ex=expires or self.expires)
            pipe.publish(key, value)
            pipe.execute()


def _seconds_kept(request: Any, longest: int) -> int:
    expires_at: datetime | None = getattr(request, "expires_at", None)
    if expires_at is None:
        return longest
    return max(min(int((expires_at - clock.now()).total_seconds()), longest), 1)
