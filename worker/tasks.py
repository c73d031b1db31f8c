"""The Celery tasks. Their names are part of the wire: they stay the same when modules change."""

import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NoReturn

import structlog
from celery import Task
from celery.exceptions import Ignore
from celery.signals import worker_ready, worker_shutting_down

from valetkey.delivery.causes import describe_cause
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE, ISSUE_TASK
from valetkey.wire.unavailable import Part, Unavailable
from worker import clock, hooks
from worker.app import BACKGROUND, app, job_context
from worker.base.stages import observe
from worker.base.tracing import annotate, process_span
from worker.broker.result_store import request_name, unnamed_batches
from worker.core import UPKEEP_QUEUE
from worker.errors import Transient
from worker.feature import Task as ContributedTask
from worker.features import TASKS, resolve
from worker.issue.dispatch import Response, respond
from worker.upkeep import start_sweeps, stop_jobs, trigger_jobs

log = structlog.get_logger()
# The number of further tries, and the longest pause before one in seconds: half a minute in all.
# All requests wait for the database. A try of storage may hold a process until a time-out.
_RETRIES: Mapping[Part, tuple[int, int]] = {"database": (15, 2)}
_OTHER_RETRIES = (5, 16)
MAX_RETRIES = max(count for count, _ in (*_RETRIES.values(), _OTHER_RETRIES))


class TaskFailed(Exception):
    """The worker failed to respond. Its log contains the reason, under the id of the task."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class SecretResultTask(Task):  # type: ignore[misc] # Celery's Task has no types
    """A task whose result is grants: never printed, and stored for their life by ResultStore."""

    ignore_result = False
    resultrepr_maxsize = 0
    typing = False
    max_retries = MAX_RETRIES
    throws = (TaskFailed,)  # logged by _respond: Celery need not add a traceback

    def on_success(self, *_: Any) -> None:
        """Do what can wait until the producer has its result."""
        self.request.follow_up()


@app.task(name=ISSUE_TASK, bind=True, base=SecretResultTask)
def respond_to_message(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any] | str:
    """Respond to one message of any kind, passed as the only argument."""
    started, arrived_at = time.monotonic(), clock.now()
    response = _respond(self, args[0] if len(args) == 1 and not kwargs else None)
    self.request.update(request_name=request_name(response.tenant, response.values))
    expires_at = response.expires_at
    if expires_at is not None:
        batches = unnamed_batches(self.request.id, response.outcomes)
        self.request.update(expires_at=expires_at, batches=batches)
    # A closure, because Celery's representation of a request must not contain the grants.
    self.request.update(follow_up=lambda: _follow_up(self.request, response, arrived_at, started))
    return response.sent


def _follow_up(request: Any, response: Response, arrived_at: datetime, started: float) -> None:
    queue, sent_at = (request.delivery_info or {}).get("routing_key"), request.get("sent_at")
    # Anyone who can write to the queue chooses the time: only of an authenticated sender.
    if sent_at is not None and response.tenant and queue in {INTERACTIVE_QUEUE, BULK_QUEUE}:
        observe("request", queue, clock.seconds_since(sent_at, clock.now()))
        if not request.retries:
            observe("queue_wait", queue, clock.seconds_since(sent_at, arrived_at))
    if response.sender is not None and response.message is not None:
        hooks.committed(response.message, response.sender.tenant, job_context().trigger)
    _log(response, _seconds_since(started))


def _seconds_since(started: float) -> float:
    return round(time.monotonic() - started, 4)


def _respond(task: Any, message: Any) -> Response:
    try:
        context = job_context()
        with process_span(task.request, message):
            response = respond(message, context)
            annotate({"valetkey.status": response.values["status"]})
            return response
    except Transient as error:
        _postpone(task, error)
    except Exception:
        # The message of an unexpected error may quote secrets: it goes into the log, which is
        # scrubbed, and not into the result.
        log.exception("issue_failed", task=task.request.id)
        raise TaskFailed from None


def _postpone(task: Any, error: Transient) -> NoReturn:
    """Schedule the next try of a message, or give it up, and report that to its producer.

    Raises Ignore, or Celery would store the error itself, with a traceback and its text.
    """
    (max_retries, longest), count = _RETRIES.get(error.part, _OTHER_RETRIES), task.request.retries
    is_last = count >= max_retries
    event = "issue_given_up" if is_last else "issue_postponed"
    log.warning(event, task=task.request.id, problem=str(error))
    seconds = None if is_last else min(2**count, longest)
    if seconds is not None:
        if error.part == "database" and count and not task.request.eta:
            time.sleep(seconds)  # too many wait in the worker's memory for it to wait there
        task.retry(exc=error, countdown=seconds, throw=False)
    hint = Unavailable(error.part, seconds, int(clock.now().timestamp()))
    try:
        state = "FAILURE" if is_last else "RETRY"
        task.backend.store_result(task.request.id, hint.celery_error(), state)
    except Exception as store_error:  # noqa: BLE001 - only a hint: the producer sends again
        log.warning("hint_not_stored", task=task.request.id, problem=describe_cause(store_error))
    raise Ignore


def _log(response: Response, duration: float) -> None:
    values, outcomes = response.values, response.outcomes
    subject = {"batch": values.get("batch"), "chunk": values.get("chunk")}
    if "replies" in values:  # one line: one for each message would take as long as deciding it
        subject = {"batches": [outcome.values["batch"] for outcome in outcomes]}
    refusals = (outcome.values.get("refusal") for outcome in outcomes)
    codes = sorted({refusal["code"] for refusal in refusals if refusal})
    refused = sum(outcome.refused for outcome in outcomes)
    log.info(
        "answered",
        tenant=response.tenant,
        **subject,
        status=values["status"],
        code=", ".join(codes) or None,
        refused=refused,
        items=sum(outcome.issued for outcome in outcomes) + refused,
        duration=duration,
    )
    if outcomes and response.message is not None and response.message.ask in _DECIDING:
        _log_quota_warnings(response.tenant, outcomes[-1].values)


_DECIDING = ("grants", "bundle", "reissue")


def _log_quota_warnings(tenant: str | None, values: dict[str, Any]) -> None:
    for quota in values.get("quotas", ()):
        if quota.get("warn_at") is not None and quota["used"] >= quota["warn_at"]:
            log.warning("quota_warning", tenant=tenant, batch=values["batch"], **quota)


def _add_task(name: str, contributed: ContributedTask) -> None:
    """Add the task of a feature. Its arguments are ignored: anybody can write them."""

    # Acknowledged at once: the database holds the work, and the next sweep triggers it again.
    @app.task(
        name=name,
        bind=True,
        typing=False,
        ignore_result=contributed.run is None,
        acks_late=False,
        throws=(TaskFailed,),
    )
    def run_task(self: Any, *_args: Any, **_kwargs: Any) -> Any:
        if contributed.run is None:
            return trigger_jobs(name)
        if not self.request.id.startswith(f"{name}."):
            raise Ignore  # its result would be stored under the id of a request
        seconds = timedelta(seconds=contributed.result_seconds)
        self.request.update(expires_at=clock.now() + seconds)
        try:
            return resolve(contributed.run)(job_context())
        except Exception:
            log.exception("task_failed", of=name)
            raise TaskFailed from None


for _name, _contributed in TASKS.items():
    if _name != ISSUE_TASK:
        _add_task(_name, _contributed)


@worker_ready.connect
def _start_sweeps(sender: Any, **_: Any) -> None:
    """Start the jobs in a worker that consumes the queue of their triggers."""
    queues = {queue.name for queue in sender.task_consumer.queues}
    if UPKEEP_QUEUE in queues and start_sweeps():  # Celery calls this at each connection
        BACKGROUND.start()


@worker_shutting_down.connect
def _stop_jobs(**_: Any) -> None:
    stop_jobs(app.conf.worker_soft_shutdown_timeout)
    BACKGROUND.stop()
