"""The Celery tasks. Their names are part of the wire: they stay the same when modules change."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from threading import Event, Thread
from typing import Any, NoReturn

import structlog
from celery import Task
from celery.exceptions import Ignore
from celery.signals import worker_ready, worker_shutting_down

from valetkey.delivery.causes import describe_cause
from valetkey.wire.unavailable import Part, Unavailable
from worker import clock
from worker.app import LATENCIES, app, job_context, send_trigger
from worker.audit.key_lookup import index_keys
from worker.base.clock_watch import WATCH
from worker.base.database_engine import snapshot_transaction, write_transaction
from worker.base.jobs import JobRun, SingleFlight
from worker.base.month_partitions import create_partitions
from worker.base.stages import observe
from worker.base.tracing import annotate, process_span
from worker.broker.latencies import LABELS
from worker.broker.queues import PROBE_ID_PREFIX, PROBE_TASK, UPKEEP_QUEUE
from worker.broker.result_store import request_name, unnamed_batches
from worker.context import Context, settings
from worker.doctor.checks import check_config
from worker.errors import Transient
from worker.issue.dispatch import Response, respond
from worker.issue.multipart_aborts import abort_expired_uploads
from worker.issue.probe import ProbeResult, ServiceProbe
from worker.ledger import quota_usage
from worker.ledger.listeners import delete_expired_listeners
from worker.ledger.outbox import fail_expired_deliveries
from worker.ledger.reservations import release_expired
from worker.proof.checkpoints import CheckpointJob
from worker.proof.verify.config_check import find_differences
from worker.revoke.kept_statements import keep_denials
from worker.revoke.session_revocation import keep_sessions_ended
from worker.tenants.config_log import ConfigLog
from worker.uses.settlement import settle_ended_slots
from worker.webhooks.endpoint_states import delete_old_states
from worker.webhooks.event_relay import RELAY_SECONDS, EventRelay
from worker.webhooks.manifest_writer import write_due_manifests
from worker.webhooks.webhook_delivery import deliver_due
from worker.webhooks.webhook_events import EXPIRED

# In one transaction, which makes other writers wait for as long as it takes.
MAX_CLEANUP_ROWS = 1_000


def clean_up(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Release expired reservations, delete old usage, and fail deliveries that have expired.

    Creates the partitions of the coming months. Waits for the database only. Any number of
    processes may do this at once. Returns counts. Raises Transient.
    """
    run = run or JobRun()
    released = _in_turns(context, run, release_expired)
    with write_transaction(context.engine) as connection:
        quota_usage.delete_short_windows(connection, context.now())
    undelivered = _in_turns(context, run, partial(fail_expired_deliveries, problem=EXPIRED))
    config = context.config.current()
    with write_transaction(context.engine) as connection:
        delete_old_states(connection, config, context.now())
        delete_expired_listeners(connection, context.now())
    partitions = create_partitions(context.engine, context.now(), context.problems)
    return {"released": released, "undelivered": undelivered, "partitions": partitions}


def _in_turns(context: Context, run: JobRun, clean: Callable[..., int]) -> int:
    """Call a function in transactions of its own until it finds fewer rows than it may change."""
    now = context.now()
    total, count = 0, MAX_CLEANUP_ROWS
    while count == MAX_CLEANUP_ROWS and not run.is_stopping:
        with write_transaction(context.engine) as connection:
            count = clean(connection, now=now, max_rows=MAX_CLEANUP_ROWS)
        total += count
        run.progress()
    return total


log = structlog.get_logger()
# The number of further tries, and the longest pause before one in seconds: half a minute in all.
# All requests wait for the database. A try of storage may hold a process until a time-out.
_RETRIES: Mapping[Part, tuple[int, int]] = {"database": (15, 2)}
_OTHER_RETRIES = (5, 16)
MAX_RETRIES = max(count for count, _ in (*_RETRIES.values(), _OTHER_RETRIES))
CONFIG_CHECK_SECONDS = 60.0


class ConfigCheckJob:
    """Compares the config in force with the log of its changes, at most once a minute.

    Differences are logged, once as long as they stay the same. Somebody changed the tables.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._check_at = 0.0
        self._log = ConfigLog()

    def __call__(self, context: Context, _run: JobRun | None = None) -> dict[str, int]:
        """Run if it is due. Raises Transient."""
        if self._monotonic() < self._check_at:
            return {}
        self._check_at = self._monotonic() + CONFIG_CHECK_SECONDS
        with snapshot_transaction(context.engine) as connection:
            check = check_config(find_differences(connection, self._log))
        problem = None if check.state == "ok" else check.message
        context.problems.note("config_differs", "config", problem, hint=check.hint)
        return {}


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


@app.task(name="valetkey.issue", bind=True, base=SecretResultTask)
def respond_to_message(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any] | str:
    """Respond to one message of any kind, passed as the only argument."""
    started, arrived_at = time.monotonic(), clock.now()
    response = _respond(self, args[0] if len(args) == 1 and not kwargs else None)
    self.request.update(request_name=request_name(response.tenant, response.values))
    items = (item for outcome in response.outcomes for item in outcome.get("items", ()))
    expiries = [item["expires_at"] for item in items if "url" in item]
    if expiries:
        batches = unnamed_batches(self.request.id, response.outcomes)
        self.request.update(expires_at=datetime.fromisoformat(min(expiries)), batches=batches)
    # A closure, because Celery's representation of a request must not contain the grants.
    self.request.update(follow_up=lambda: _follow_up(self.request, response, arrived_at, started))
    return response.sent


_PROBE = ServiceProbe()
PROBE_RESULT_LIFETIME = timedelta(seconds=60)


# Acknowledged at once: if a probe is lost, the next one follows in seconds.
@app.task(
    name=PROBE_TASK,
    bind=True,
    typing=False,
    ignore_result=False,
    acks_late=False,
    throws=(TaskFailed,),
)
def probe(self: Any, *_args: Any, **_kwargs: Any) -> ProbeResult:
    """Respond to a probe with what fails. The argument only names the lane of probes."""
    if not self.request.id.startswith(PROBE_ID_PREFIX):
        raise Ignore
    self.request.update(expires_at=clock.now() + PROBE_RESULT_LIFETIME)
    try:
        return _PROBE(job_context())
    except Exception:
        log.exception("probe_failed")
        raise TaskFailed from None


def _follow_up(request: Any, response: Response, arrived_at: datetime, started: float) -> None:
    queue, sent_at = (request.delivery_info or {}).get("routing_key"), request.get("sent_at")
    # Anyone who can write to the queue chooses the time: only of an authenticated sender.
    if sent_at is not None and response.tenant is not None and queue in LABELS["request"]:
        observe("request", queue, clock.seconds_since(sent_at, clock.now()))
        if not request.retries:
            observe("queue_wait", queue, clock.seconds_since(sent_at, arrived_at))
    if response.has_webhook:
        send_trigger(deliver.name)
    if response.may_complete_manifest:
        send_trigger(manifests.name)
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
        subject = {"batches": [outcome["batch"] for outcome in outcomes]}
    refusals = (outcome.get("refusal") for outcome in outcomes)
    codes = sorted({refusal["code"] for refusal in refusals if refusal})
    counts = sum(map(_count_items, outcomes), Counter[str]())
    log.info(
        "answered",
        tenant=response.tenant,
        **subject,
        status=values["status"],
        code=", ".join(codes) or None,
        refused=counts["refused"],
        items=counts.total(),
        duration=duration,
    )
    if response.is_decision and outcomes:
        _log_quota_warnings(response.tenant, outcomes[-1])


def _count_items(outcome: dict[str, Any]) -> Counter[str]:
    """Count the issued and refused items. With a manifest, the outcome has only the numbers."""
    items = outcome.get("items", ())
    refused = outcome.get("refused", sum("code" in item for item in items))
    return Counter(issued=outcome.get("issued", len(items) - refused), refused=refused)


def _log_quota_warnings(tenant: str | None, values: dict[str, Any]) -> None:
    for quota in values.get("quotas", ()):
        if quota.get("warn_at") is not None and quota["used"] >= quota["warn_at"]:
            log.warning("quota_warning", tenant=tenant, batch=values["batch"], **quota)


def _job(
    name: str, event: str, use_case: Callable[[Context, JobRun], dict[str, int]]
) -> SingleFlight:
    """Return a job with a thread of its own, so that none waits for another."""

    def run_job(run: JobRun) -> None:
        if not WATCH.is_right:  # it would release, send or sign at the wrong time
            return
        started = time.monotonic()
        try:
            counts = use_case(job_context(), run)
        except Transient as error:
            log.warning("sweep_postponed", of=event, problem=str(error))
            return
        if any(counts.values()):
            log.info(event, **counts, duration=_seconds_since(started))

    return SingleFlight(name, run_job)


# The tasks only trigger these.
_DELIVER = _job("deliver", "webhooks_sent", deliver_due)
_WRITE_MANIFESTS = _job("manifests", "manifests_written", write_due_manifests)
_EVENT_RELAY = EventRelay(app.backend.announce)


def _relay_events(context: Context, run: JobRun) -> dict[str, int]:
    """Relay events, and again after a pause as long as anybody listens."""
    listeners, events = _EVENT_RELAY.relay(context, run)
    if listeners:
        run.sleep(RELAY_SECONDS)
        _RELAY.trigger()
    return {"events": events}


_RELAY = _job("relay", "events_relayed", _relay_events)
_UPKEEP_JOBS = (
    _job("cleanup", "cleaned_up", clean_up),
    _job("aborts", "uploads_aborted", abort_expired_uploads),
    _job("settling", "slots_settled", settle_ended_slots),
    _job("key_index", "keys_indexed", index_keys),
    _job("denials", "denials_removed", keep_denials),
    _job("ended_sessions", "role_policies_removed", keep_sessions_ended),
    _job("config_check", "config_compared", ConfigCheckJob()),
)
_CHECKPOINTS = _job("checkpoints", "checkpoints_signed", CheckpointJob(settings))
_JOBS = (_DELIVER, _RELAY, _WRITE_MANIFESTS, _CHECKPOINTS, *_UPKEEP_JOBS)


# Acknowledged at once: the database holds the work, and the next sweep triggers it again.
@app.task(name="valetkey.deliver", acks_late=False)
def deliver() -> None:
    """Trigger the jobs that send the webhooks that are due, and relay them to who listens."""
    _DELIVER.trigger()
    _RELAY.trigger()


@app.task(name="valetkey.manifests", acks_late=False)
def manifests() -> None:
    """Trigger the job that writes the manifests that are due."""
    _WRITE_MANIFESTS.trigger()


@app.task(name="valetkey.upkeep", acks_late=False)
def upkeep() -> None:
    """Trigger the jobs that release expired grants, end their uploads, and keep what is revoked."""
    for job in _UPKEEP_JOBS:
        job.trigger()


@worker_ready.connect
def _start_sweeps(sender: Any, **_: Any) -> None:
    """Trigger all jobs again and again, in a worker that consumes the queue of their triggers."""
    queues = {queue.name for queue in sender.task_consumer.queues}
    if UPKEEP_QUEUE in queues and not _SWEEPS.is_alive():  # Celery calls this at each connection
        _SWEEPS.start()
        LATENCIES.start()


def _sweep() -> None:
    while True:
        for job in _JOBS:
            job.trigger()
        if _SWEEPS_STOPPING.wait(settings().sweep_seconds):
            return


_SWEEPS_STOPPING = Event()
_SWEEPS = Thread(target=_sweep, name="sweeps", daemon=True)


@worker_shutting_down.connect
def _stop_jobs(**_: Any) -> None:
    """Let the jobs finish what they began. What is cut off has a lease that expires."""
    _SWEEPS_STOPPING.set()
    end = time.monotonic() + app.conf.worker_soft_shutdown_timeout
    for job in _JOBS:
        job.stop()
    for job in _JOBS:
        job.join(max(end - time.monotonic(), 0))
    LATENCIES.stop()
