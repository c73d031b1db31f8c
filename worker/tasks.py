"""The Celery tasks. Their names are part of the wire: they stay the same when modules change."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from celery import Task

from worker import clock
from worker.app import app
from worker.context import Context, process_context
from worker.errors import Transient
from worker.usecases.cleanup import clean_up
from worker.usecases.deliver import deliver_due
from worker.usecases.dispatch import Response, respond
from worker.usecases.manifest import write_due_manifests

log = structlog.get_logger()
MAX_RETRIES = 5


class TaskFailed(Exception):
    """The worker failed to respond. Its log contains the reason, under the id of the task."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class SecretResultTask(Task):  # type: ignore[misc] # Celery's Task has no types
    """A task whose result is grants: never printed, and deleted from Redis when they expire."""

    ignore_result = False
    resultrepr_maxsize = 0
    typing = False
    max_retries = MAX_RETRIES

    def on_success(self, _retval: Any, task_id: str, _args: Any, _kwargs: Any) -> None:
        """Let the stored result expire together with the first of its grants."""
        expires_at: datetime | None = self.request.get("expires_at")
        if expires_at is not None:
            seconds = int((expires_at - clock.now()).total_seconds())
            if seconds < app.conf.result_expires:
                self.backend.expire(self.backend.get_key_for_task(task_id), max(seconds, 1))


@app.task(name="valetkey.issue", bind=True, base=SecretResultTask)
def respond_to_message(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any] | str:
    """Respond to one message of any kind, passed as the only argument."""
    response = _respond(self, args[0] if len(args) == 1 and not kwargs else None)
    items = response.values.get("items", ())
    expiries = [item["expires_at"] for item in items if "expires_at" in item]
    if expiries:
        self.request.update(expires_at=datetime.fromisoformat(min(expiries)))
    if response.has_webhook:
        deliver.delay()
    if response.may_complete_manifest:
        manifests.delay()
    _log(response)
    return response.sent


def _respond(task: Any, message: Any) -> Response:
    try:
        return respond(message, process_context())
    except Transient as error:
        log.warning("issue_postponed", task=task.request.id, problem=str(error))
        raise task.retry(exc=error, countdown=2**task.request.retries) from None
    except Exception:
        # The message of an unexpected error may quote secrets: it goes into the log, which is
        # scrubbed, and not into the result.
        log.exception("issue_failed", task=task.request.id)
        raise TaskFailed from None


def _log(response: Response) -> None:
    values = response.values
    refusal, items = values.get("refusal"), values.get("items", ())
    refused = values.get("refused", sum("code" in item for item in items))
    log.info(
        "answered",
        tenant=response.tenant,
        batch=values.get("batch"),
        chunk=values.get("chunk"),
        status=values["status"],
        code=refusal and refusal["code"],
        refused=refused,
        items=values.get("issued", len(items) - refused) + refused,
    )
    if response.is_decision:
        _log_quota_warnings(response.tenant, values)


def _log_quota_warnings(tenant: str | None, values: dict[str, Any]) -> None:
    for quota in values.get("quotas", ()):
        if quota.get("warn_at") is not None and quota["used"] >= quota["warn_at"]:
            log.warning("quota_warning", tenant=tenant, batch=values["batch"], **quota)


@app.task(name="valetkey.deliver", expires=60)
def deliver() -> None:
    """Send the webhooks that are due. Best-effort trigger; the database holds the deliveries."""
    _run("webhooks_sent", deliver_due)


# A million lines take a minute, or longer on slow storage. The message is acknowledged at once,
# because it is only a trigger: a later run continues what is interrupted.
@app.task(
    name="valetkey.manifests", expires=60, acks_late=False, soft_time_limit=900, time_limit=930
)
def manifests() -> None:
    """Write the manifests that are due."""
    _run("manifests_written", write_due_manifests)


@app.task(name="valetkey.upkeep", expires=60)
def upkeep() -> None:
    """Release expired grants, and abort their unfinished uploads."""
    _run("cleaned_up", clean_up)


def _run(event: str, use_case: Callable[[Context], dict[str, int]]) -> None:
    try:
        counts = use_case(process_context())
    except Transient as error:
        log.warning("sweep_postponed", of=event, problem=str(error))
        return
    if any(counts.values()):
        log.info(event, **counts)
