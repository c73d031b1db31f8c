"""A broker that tests kill, restart and empty."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.devstack.broker import running_valkey
from worker.devstack.ports import reserved_ports


class Broker:
    """A Valkey server with its data in a folder. It keeps its port when it is restarted."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._port_reservation = ExitStack()
        (self._port,) = self._port_reservation.enter_context(reserved_ports(None))
        self._run = ExitStack()
        self.start()

    def url(self, database: int = 0) -> str:
        """Return the URL of one of its databases."""
        return self._server.url(database)

    def start(self) -> None:
        """Start it, with the data that it had written if it was killed."""
        self._server = self._run.enter_context(running_valkey(self._data, self._port))

    def kill(self) -> None:
        """Kill it; its connections break."""
        os.kill(self._server.child.pid, signal.SIGKILL)
        self._server.child.process.wait()
        self._run.close()

    def close(self) -> None:
        """Stop it."""
        self._run.close()
        self._port_reservation.close()

    def flush(self) -> None:
        """Delete everything: queues, unacknowledged messages and results."""
        with self._connection() as connection:
            connection.flushall()

    def queue_length(self) -> int:
        """Return the number of requests that wait in the queues."""
        with self._connection() as connection:
            return int(connection.llen(INTERACTIVE_QUEUE)) + int(connection.llen(BULK_QUEUE))

    def blocked_clients(self) -> int:
        """Return the number of connections that wait for a message."""
        with self._connection() as connection:
            return int(connection.info("clients")["blocked_clients"])

    def held_messages(self) -> str:
        """Return all messages that wait or are not acknowledged, and the keys of all results."""
        with self._connection() as connection:
            waiting = [connection.lrange(name, 0, -1) for name in (INTERACTIVE_QUEUE, BULK_QUEUE)]
            taken = connection.hvals("unacked")
        with redis.Redis.from_url(self.url(1)) as results:
            return repr([waiting, taken, results.keys()])

    @contextmanager
    def _connection(self) -> Iterator["redis.Redis"]:
        with redis.Redis.from_url(self.url()) as connection:
            yield connection
