"""Shares the issuing workers among tenants, so that no tenant's requests delay another's.

Workers take messages from the queues in the order of their arrival, and know nothing of this. If a
tenant has many messages in a queue, they are moved into a list of its own, and return to the bulk
queue when it is the tenant's turn.
"""

import threading
import time

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.broker.sharing.lanes import lane_tenant
from worker.broker.sharing.lease import Lease
from worker.broker.sharing.passes import QueueSharing
from worker.broker.sharing.queue_lengths import LEASE

LEASE_SECONDS = 3.0
"""The time after which another process takes over from one that was killed."""

_GROWING_INTERVAL = 0.01  # seconds between two passes while more messages arrive that must wait
_BUSY_INTERVAL = 0.025  # while messages wait
_IDLE_INTERVAL = 0.25
_MIN_BACKOFF, _MAX_BACKOFF = 0.5, 3.0
_LOG_INTERVAL = 60.0
_SOCKET_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 3}

log = structlog.get_logger()


class FairQueue:
    """Moves messages between lists of the broker, as long as it runs.

    Any number of processes may run one: one of them works at a time. Whenever it is killed, all
    messages are in a queue or in a list of waiting messages, from which another process serves
    them.
    """

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._logged_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. If the broker is lost, log that and try again."""
        backoff = _MIN_BACKOFF
        while not stop.is_set():
            started = time.monotonic()
            try:
                self._share(stop)
            except (redis.RedisError, OSError, ValueError) as error:
                # Only its type: the text may contain a part of the URL.
                log.warning("fair_queue_postponed", problem=type(error).__name__)
            except Exception:
                log.exception("fair_queue_failed")
            if time.monotonic() - started > _MAX_BACKOFF:
                backoff = _MIN_BACKOFF
            stop.wait(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)

    def _share(self, stop: threading.Event) -> None:
        no_retry = Retry(NoBackoff(), 0)
        with redis.Redis.from_url(
            self._broker_url, retry=no_retry, protocol=2, **_SOCKET_OPTIONS
        ) as client:
            lease, sharing = Lease(client, LEASE, LEASE_SECONDS), QueueSharing(client)
            while not stop.is_set():
                if lease.is_due():
                    if not lease.keep():
                        stop.wait(LEASE_SECONDS / 4)
                        continue
                    sharing.load_lanes()
                stop.wait(self._run_pass(sharing))
            lease.end()

    def _run_pass(self, sharing: QueueSharing) -> float:
        """Run a pass, and return the time in seconds until the next one."""
        started = time.monotonic()
        result = sharing.run_pass()
        if not result.is_waiting:
            return _IDLE_INTERVAL
        now = time.monotonic()
        if sharing.waiting and now - self._logged_at > _LOG_INTERVAL:
            self._logged_at = now
            tenants = {lane_tenant(lane) for lane in sharing.waiting}
            log.info("tenants_wait", tenants=sorted(tenants))
        if result.has_more:
            return 0.0
        # If the broker is slow, leave it at least half of its time.
        return max(_GROWING_INTERVAL if result.is_growing else _BUSY_INTERVAL, now - started)
