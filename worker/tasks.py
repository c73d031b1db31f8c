"""What the queue can ask for. A name here is part of the wire: it outlives every module."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from celery import Task

from worker import clock
from worker.app import app
from worker.context import answerer, deliverer, manifest_writer, upkeep
from worker.errors import Transient
from worker.usecases.dispatch import Response

log = structlog.get_logger()
MAX_RETRIES = 5


class TaskFailed(Exception):
    """The worker could not answer; its log says why, under the id of the task."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class IssueTask(Task):  # type: ignore[misc] # Celery's Task has no types
    """A task whose result is grants: it is never printed, and Redis forgets it when they end."""

    ignore_result = False
    resultrepr_maxsize = 0
    typing = False
    max_retries = MAX_RETRIES

    def on_success(self, _retval: Any, task_id: str, _args: Any, _kwargs: Any) -> None:
        """Shorten the stored result's life to that of its first grant to end."""
        ends_at: datetime | None = self.request.get("ends_at")
        if ends_at is not None:
            left = int((ends_at - clock.now()).total_seconds())
            if left < app.conf.result_expires:
                self.backend.expire(self.backend.get_key_for_task(task_id), max(left, 1))


@app.task(name="valetkey.issue", bind=True, base=IssueTask)
def issue(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any] | str:
    """Answer one message: the only argument."""
    answer = _answer(self, args[0] if len(args) == 1 and not kwargs else None)
    ends = [item["expires_at"] for item in answer.said.get("items", ()) if "expires_at" in item]
    if ends:
        self.request.update(ends_at=datetime.fromisoformat(min(ends)))
    if answer.notifies:
        deliver.delay()
    if answer.completes:
        manifests.delay()
    _log(answer)
    return answer.wire


def _answer(task: Any, message: Any) -> Response:
    try:
        return answerer().answer(message)
    except Transient as error:
        log.warning("issue_postponed", task=task.request.id, problem=str(error))
        raise task.retry(exc=error, countdown=2**task.request.retries) from None
    except Exception:
        # What a bug says may quote what it was working on: that is for the log, not for the result.
        log.exception("issue_failed", task=task.request.id)
        raise TaskFailed from None


def _log(answer: Response) -> None:
    said = answer.said
    refusal, items = said.get("refusal"), said.get("items", ())
    refused = said.get("refused", sum("code" in item for item in items))
    log.info(
        "answered",
        tenant=answer.tenant,
        batch=said.get("batch"),
        chunk=said.get("chunk"),
        status=said["status"],
        code=refusal and refusal["code"],
        refused=refused,
        items=said.get("issued", len(items) - refused) + refused,
    )
    if answer.decides:  # what is only told is no news
        _warn(answer.tenant, said)


def _warn(tenant: str | None, said: dict[str, Any]) -> None:
    for quota in said.get("quotas", ()):
        if quota.get("warn_at") is not None and quota["used"] >= quota["warn_at"]:
            log.warning("quota_warning", tenant=tenant, batch=said["batch"], **quota)


@app.task(name="valetkey.deliver", expires=60)
def deliver() -> None:
    """Send the webhooks that are due. Only a wake-up: what is due stands in the database."""
    _sweep("webhooks_sent", deliverer().deliver_due)


# A million lines take a minute, and a slow storage longer. To be read is enough, as it is only a
# wake-up too: what is interrupted is taken up again by a later sweep.
@app.task(
    name="valetkey.manifests", expires=60, acks_late=False, soft_time_limit=900, time_limit=930
)
def manifests() -> None:
    """Write the manifests that are due."""
    _sweep("manifests_written", manifest_writer().write_due)


@app.task(name="valetkey.upkeep", expires=60)
def cleanup() -> None:
    """End what its grants have outlived."""
    _sweep("swept", upkeep().sweep)


def _sweep(event: str, once: Callable[[], dict[str, int]]) -> None:
    try:
        counts = once()
    except Transient as error:
        log.warning("sweep_postponed", of=event, problem=str(error))
        return
    if any(counts.values()):
        log.info(event, **counts)
