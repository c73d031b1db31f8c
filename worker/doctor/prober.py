"""Sends probes, which take the way of a request through queue, worker and result store."""

import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Literal, NamedTuple, get_args

from valetkey.cli.terminal_text import escape_unprintable
from valetkey.delivery.transport import RESULT_PREFIX, Publisher, Server, Servers
from valetkey.errors import BrokerUnreachable, Busy
from valetkey.wire import INTERACTIVE_QUEUE
from valetkey.wire.strict_json import parse_json
from valetkey.wire.waiting import PROBE_TENANT
from worker.cli.redis_servers import open_broker, open_results
from worker.cli.service_failures import ServiceUnusable
from worker.doctor.feature import PROBE_TASK
from worker.settings import Settings
from worker.shared.worker_states import read_heartbeats, workers_by_queue

PROBE_INTERVAL = 15.0
"""The time in seconds between two probes of `metrics --listen`."""

PROBE_TIMEOUT = 10.0
"""The time in seconds that a probe of `metrics --listen` waits for its response."""

SHORT_TIMEOUT = 5.0
"""As PROBE_TIMEOUT, of a command that sends one probe."""

MAX_AGE = 60.0
"""The time in seconds for which a probe says anything of the service."""

Part = Literal["broker", "result_store", "worker", "database", "signing"]
PARTS: tuple[Part, ...] = get_args(Part)

_MAX_CAUSE = 200
_FIRST_PAUSE, _MAX_PAUSE = 0.002, 0.1  # seconds between two looks for the result


class ProbeReport(NamedTuple):
    """The time at which a probe ended, and the failures that it found, by part.

    seconds is the time until a worker responded, None if none did.
    """

    ended_at: float
    seconds: float | None
    problems: Mapping[Part, str]


NO_WORKER = f"no worker is alive that consumes the queue {INTERACTIVE_QUEUE}"
_OTHER_RESPONSE = "the response is none of this release: the log of the workers has the reason"


def send_probe(timeout: float) -> ProbeReport:
    """Write to the servers, send a probe, and wait for the response for so many seconds."""
    problems: dict[Part, str] = {}
    servers: dict[Part, Any] = {"broker": open_broker, "result_store": open_results}
    for part, open_server in servers.items():
        try:
            with open_server() as client:
                try_write(client)
        except ServiceUnusable as error:
            problems[part] = error.message
    seconds = None
    if not problems:
        try:
            seconds, problems = _exchange(timeout)
        except BrokerUnreachable as error:
            problems["broker"] = str(error)
        except Busy as error:  # anyone at the broker can fill the lane of probes
            problems["worker"] = str(error)
        except ServiceUnusable as error:
            problems["result_store"] = error.message
    return ProbeReport(time.monotonic(), seconds, problems)


def _exchange(timeout: float) -> tuple[float | None, dict[Part, str]]:
    with open_results() as results, closing(Publisher(_servers(), PROBE_TASK)) as publisher:
        if not workers_by_queue(read_heartbeats(results)).get(INTERACTIVE_QUEUE):
            return None, {"worker": NO_WORKER}
        task_id = f"{PROBE_TASK}.{uuid.uuid4()}"
        started = time.monotonic()
        try:
            publisher.send(task_id, {"tenant": PROBE_TENANT}, INTERACTIVE_QUEUE)
            raw = _wait(results, task_id, started + timeout)
        finally:  # a probe that nobody waits for must not wait in the queue
            publisher.remove(publisher.forget([task_id]))
        if raw is None:
            return None, {"worker": f"no worker responded within {timeout:g} s"}
        return time.monotonic() - started, _read_response(raw)


def _servers() -> Servers:
    settings = Settings()
    broker = settings.broker_url.get_secret_value(), "VALETKEY_BROKER_URL"
    results = settings.result_url.get_secret_value(), "VALETKEY_RESULT_URL"
    servers = Server("broker", *broker), Server("result store", *results)
    return Servers(*servers, is_same_server=False, tenant=PROBE_TENANT)


def _wait(results: Any, task_id: str, end: float) -> bytes | None:
    pause = _FIRST_PAUSE
    while time.monotonic() < end:
        raw: bytes | None = results.get(RESULT_PREFIX + task_id)
        if raw is not None:
            return raw
        time.sleep(pause)
        pause = min(pause * 1.2, _MAX_PAUSE)
    return None


def _read_response(raw: bytes) -> dict[Part, str]:
    """Return the failures that a worker reports. Others can write there, too."""
    try:
        match parse_json(raw):
            case {
                "status": "SUCCESS",
                "result": {
                    "database": str() | None as database,
                    "signing": str() | None as signing,
                },
            }:
                causes: dict[Part, str | None] = {"database": database, "signing": signing}
                return {
                    part: escape_unprintable(cause[:_MAX_CAUSE])
                    for part, cause in causes.items()
                    if cause
                }
    except ValueError:
        pass
    return {"worker": _OTHER_RESPONSE}


class Prober:
    """Remembers what the last probes found. Threads may share it."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        """The time that the last successful probe took."""
        self._last: ProbeReport | None = None
        self._last_response: ProbeReport | None = None

    def probe(self, timeout: float) -> None:
        """Send a probe, and remember what it finds."""
        try:
            report = send_probe(timeout)
        except Exception as error:  # noqa: BLE001 - without its thread, no more probes would be sent
            problem = f"the probe failed with {type(error).__name__}"
            report = ProbeReport(time.monotonic(), None, {"worker": problem})
        self._last = report
        if report.seconds is not None and "worker" not in report.problems:
            self._last_response = report
        if not report.problems:
            self.seconds = report.seconds

    def run(self) -> None:
        """Send a probe at each interval, as long as the process runs."""
        while True:
            started = time.monotonic()
            self.probe(PROBE_TIMEOUT)
            time.sleep(max(started + PROBE_INTERVAL - time.monotonic(), 0))

    @property
    def is_new(self) -> bool:
        """True until the first probe has ended."""
        return self._last is None

    @property
    def last(self) -> ProbeReport | None:
        """The last probe, unless it is too old."""
        return _recent(self._last)

    @property
    def last_response(self) -> ProbeReport | None:
        """The last probe to which a worker responded, unless it is too old."""
        return _recent(self._last_response)


def _recent(report: ProbeReport | None) -> ProbeReport | None:
    is_recent = report is not None and time.monotonic() - report.ended_at <= MAX_AGE
    return report if is_recent else None


def try_write(client: Any) -> None:
    """Write a key that expires. Raises as redis-py does if the server takes no writes."""
    client.set("valetkey.probe", "", ex=60)
