"""Compares the clock of this machine with those of the broker and the database."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from threading import Thread

import structlog
from sqlalchemy.engine import make_url

from valetkey.delivery.causes import describe_cause
from valetkey.delivery.redis_clients import open_redis
from worker import clock
from worker.base.database_engine import create_database_engine, read_in_driver
from worker.clock import MAX_CLOCK_SKEW
from worker.errors import Transient
from worker.settings import Settings

CHECK_INTERVAL = 60.0  # seconds
_TIMEOUT = 3.0  # seconds

log = structlog.get_logger()


class ClockWatch:
    """The state of this machine's clock. While it is wrong, this process takes no messages."""

    def __init__(self) -> None:
        self.problems: Mapping[str, str] = {}
        """By code: see clock_problems."""

    @property
    def is_right(self) -> bool:
        """False if no server confirms this machine's clock."""
        return "own_clock" not in self.problems

    def start(self, settings: Settings) -> None:
        """Compare the clocks now, and in a thread each minute."""
        urls = settings.broker_url.get_secret_value(), settings.database_url.get_secret_value()
        self.check(*urls)
        Thread(target=self._run, args=urls, name="clock-watch", daemon=True).start()

    def _run(self, broker_url: str, database_url: str) -> None:
        while True:
            time.sleep(CHECK_INTERVAL)
            self.check(broker_url, database_url)

    def check(self, broker_url: str, database_url: str) -> None:
        """Compare the clocks. If a server does not report its time, the last problems stay."""
        try:
            ahead = {"the broker": _time_ahead(lambda: _broker_time(broker_url))}
            if make_url(database_url).get_backend_name() != "sqlite":  # which has no clock
                ahead["the database"] = _time_ahead(lambda: _database_time(database_url))
        except Exception as error:  # noqa: BLE001 - a server may answer with anything
            problem = str(error) if isinstance(error, Transient) else describe_cause(error)
            log.warning("clocks_not_compared", problem=problem)
            return
        was_right, self.problems = self.is_right, clock_problems(ahead)
        for code, problem in self.problems.items():
            log.error("clocks_differ", code=code, problem=problem, takes_messages=self.is_right)
        if self.is_right and not was_right:
            log.info("clock_right", takes_messages=True)


WATCH = ClockWatch()
"""The watch of this process. It compares nothing until it is started."""


def clock_problems(ahead: Mapping[str, timedelta]) -> dict[str, str]:
    """Return what is wrong with the clocks, by code.

    ahead has for each server the time by which its clock is ahead of this machine's. `own_clock`
    means that no server confirms this machine's clock; if there is only one server, that one may be
    wrong instead. `server_clock` means that a server differs and another one confirms it.
    """
    # With a larger difference than producers may have, a worker refuses what others grant.
    limit = timedelta(seconds=MAX_CLOCK_SKEW)
    far = {name: each for name, each in ahead.items() if abs(each) > limit}
    code = "own_clock" if len(far) == len(ahead) else "server_clock"
    texts = [
        f"that of {name} is {round(abs(each).total_seconds()):,} s"
        f" {'ahead' if each > timedelta(0) else 'behind'}"
        for name, each in sorted(far.items())
    ]
    return {code: f"compared with this machine's clock, {' and '.join(texts)}"} if far else {}


def _time_ahead(read: Callable[[], datetime]) -> timedelta:
    """Return the time by which a server's clock is ahead, zero if the round trip explains it."""
    before = clock.now()
    server = read()
    after = clock.now()
    return server - min(max(server, before), max(before, after))


def _broker_time(url: str) -> datetime:
    with open_redis(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT) as client:
        seconds, microseconds = client.time()
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


def _database_time(url: str) -> datetime:
    engine = create_database_engine(url)
    try:
        (seconds,) = read_in_driver(engine, "SELECT extract(epoch FROM clock_timestamp())::float")
    finally:
        engine.dispose()
    return datetime.fromtimestamp(seconds, UTC)
