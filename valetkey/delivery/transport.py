"""Connects a client that waits in its own thread to the broker and the result store.

The client uses Celery only to publish messages, and only here.
"""

import json
import time
import uuid
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import redis
from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as BrokerError

from valetkey.config import Config
from valetkey.delivery.causes import REFUSED, find_cause
from valetkey.delivery.redis_clients import kombu_address, open_redis
from valetkey.errors import BrokerUnreachable, Busy
from valetkey.redis_urls import REDIS_SCHEMES, redact_url
from valetkey.wire import BULK_QUEUE, ISSUE_TASK
from valetkey.wire.waiting import (
    LANE_STATES,
    MAX_BUSY_SECONDS,
    QUEUE_LIMIT,
    SERVICE_FIELD,
    LaneState,
    frame_places,
    lane_key,
    lane_name,
    read_lane_state,
)

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

SOCKET_TIMEOUT = 5  # seconds to connect a socket, and to read from it
SOCKET_OPTIONS = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
_RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}

# Workers log headers, which must not contain object keys.
_REPRS = {"argsrepr": "(message)", "kwargsrepr": "{}"}

RESULT_PREFIX = "celery-task-meta-"  # Celery's prefix of a result's key, and of its channel
UNSUBSCRIBE_BATCH = 32  # channels: to unsubscribe from many takes as long as from one

Headers = Mapping[str, Any]
NO_HEADERS: Headers = {}

Results = list[tuple[str, bytes | str]]
"""Results as Celery stores them, each with its task id."""

Frame = tuple[str, str]
"""A queue, and a message as it was written there."""
AnyFrame = TypeVar("AnyFrame")


class Server(NamedTuple):
    """A server, its URL, and where the URL comes from, like `from VALETKEY_BROKER_URL`."""

    role: Literal["broker", "result store"]
    url: str
    source: str

    def unreachable(
        self, error: BaseException, same_server: "Server | None" = None
    ) -> BrokerUnreachable:
        """Return the error for a failed use of this server, without secrets.

        same_server is set if its URL differs only in the database: the error then names this one,
        whose URL the user knows, unless the cause lies in the database.
        """
        kind, words = find_cause(error)
        server = same_server if same_server is not None and kind.is_of_server else self
        where = f"{server.role} at {redact_url(server.url)} ({server.source})"
        text = f"cannot use the {where}: {words}; {kind.next_step}"
        if kind is REFUSED and urlsplit(server.url).hostname in _LOOPBACK:
            text += " (`python -m worker dev` starts one on this machine)"
        return BrokerUnreachable(
            text, is_permanent=kind.is_permanent, is_busy=kind.is_busy, server=server.role
        )


class Servers(NamedTuple):
    """The broker and the result store of a client, and its tenant."""

    broker: Server
    store: Server
    is_same_server: bool
    tenant: str

    @contextmanager
    def store_errors(self) -> Iterator[None]:
        """Raise BrokerUnreachable for an error of the block, which uses the result store."""
        try:
            yield
        except (redis.RedisError, OSError) as error:
            same_server = self.broker if self.is_same_server else None
            raise self.store.unreachable(error, same_server) from None


def client_servers(config: Config) -> Servers:
    """Return the servers of a client's configuration."""
    broker, store = urlsplit(config.broker_url), urlsplit(config.result_url)
    store_source = config.result_source or (
        "database 1 of the broker's server; VALETKEY_RESULT_URL sets another"
    )
    return Servers(
        Server("broker", config.broker_url, config.broker_source),
        Server("result store", config.result_url, store_source),
        is_same_server=broker._replace(path="") == store._replace(path=""),
        tenant=config.tenant,
    )


def connect_store(servers: Servers, retries: int) -> redis.Redis:
    """Return the result store, whose closed connections are reopened so many times."""
    # With RESP3, redis-py writes each pushed message, grants included, to its debug log.
    return open_redis(servers.store.url, retries, protocol=2, **SOCKET_OPTIONS)


class FrameLog(Generic[AnyFrame]):
    """The frames in which each unanswered message was written. Pure.

    A message has two at most. The first one keeps its place in the queue. A further copy replaces
    the second one.
    """

    def __init__(self) -> None:
        self._frames: dict[str, list[AnyFrame]] = {}

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._frames

    def __getitem__(self, task_id: str) -> Sequence[AnyFrame]:
        return self._frames.get(task_id, ())

    def replaced_by_next(self, task_id: str) -> list[AnyFrame]:
        """Forget the frames that the next one of a message replaces, and return them."""
        frames = self._frames.get(task_id, [])
        replaced = frames[1:]
        del frames[1:]
        return replaced

    def add(self, task_id: str, frame: AnyFrame) -> None:
        """Add a frame that was written."""
        self._frames.setdefault(task_id, []).append(frame)

    def forget(self, task_ids: Iterable[str]) -> list[AnyFrame]:
        """Forget messages that are not sent again; return their frames."""
        return [frame for task_id in task_ids for frame in self._frames.pop(task_id, ())]


_BACKLOG_LIFETIME = 0.05  # seconds; a window of messages is sent in less


@dataclass
class Backlog:
    """The number of messages in a queue and in the tenant's lane for it, as read last.

    state is None if nothing serves lanes, or the user may not read this.
    """

    queue: int
    lane: int
    state: LaneState | None
    expires_at: float

    def add(self, queue: str, lane: str) -> str:
        """Return the list that the next message of the queue is written to. Raises Busy."""
        if self.state is None:
            return queue
        is_full = self.lane >= self.state.max_messages
        if is_full or self.state.busy is not None:
            seconds = self.state.busy or 1
            text = (
                f"the service is busy: {self.lane:,} messages of this tenant wait for its turn; it "
                f"takes more in about {seconds} s"
            )
            if seconds >= MAX_BUSY_SECONDS:  # as long as it knows: none may be running
                text += (
                    "; are workers running? `python -m worker doctor` finds out, where the service "
                    "runs"
                )
            raise Busy(text, retry_in=seconds)
        if self.queue > QUEUE_LIMIT:
            self.lane += 1
            return lane
        self.queue += 1
        return queue


class Publisher:
    """The broker connection of one client, for tasks of one name; for one thread at a time."""

    def __init__(self, servers: Servers, task: str = ISSUE_TASK) -> None:
        self._servers, self._task = servers, task
        url, options = kombu_address(servers.broker.url)
        self._is_redis = self._may_look = self._may_read = url.startswith(REDIS_SCHEMES)
        self._backlogs: dict[str, Backlog] = {}  # by queue
        self._frames = FrameLog[Frame]()
        self._app = _create_app()
        # An explicit connection: Celery prefers CELERY_BROKER_URL to the URL in its arguments.
        self._connection = self._app.connection_for_write(
            url,
            connect_timeout=SOCKET_TIMEOUT,
            transport_options=SOCKET_OPTIONS | _RETRY_ONCE | options,
        )
        self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)

    def send(
        self,
        task_id: str,
        argument: dict[str, Any] | str,
        queue: str,
        headers: Headers = NO_HEADERS,
    ) -> None:
        """Put a task with this argument into a queue, or into the tenant's lane if it is long.

        headers are those beside Celery's own.
        Raises Busy if too many messages of the tenant wait, and BrokerUnreachable, within seconds,
        if the broker does not take it.
        """
        # A tracing library that listens to Celery adds headers. Otherwise Celery's and kombu's work
        # takes four times as long as writing the message.
        is_traced = before_task_publish.receivers or after_task_publish.receivers
        try:
            target = self._choose_list(queue)
            if self._is_redis and not is_traced:
                self._push(task_id, argument, queue, headers, target)
            else:
                self._send_task(task_id, argument, target, headers)
        except (redis.RedisError, BrokerError, KombuError, OSError) as error:
            raise self._servers.broker.unreachable(error) from None

    def _choose_list(self, queue: str) -> str:
        """Return the list to write a message of this queue to. Raises Busy."""
        if not self._may_read:
            return queue
        lane = lane_name(self._servers.tenant, is_bulk=queue == BULK_QUEUE)
        backlog = self._backlogs.get(queue)
        if backlog is None or time.monotonic() >= backlog.expires_at:
            backlog = self._backlogs[queue] = self._read_backlog(queue, lane)
        return backlog.add(queue, lane_key(lane))

    def _read_backlog(self, queue: str, lane: str) -> Backlog:
        pipe = self._producer.channel.client.pipeline(transaction=False)
        pipe.hmget(LANE_STATES, [self._servers.tenant, SERVICE_FIELD]).llen(queue)
        states, *lengths = pipe.llen(lane_key(lane)).execute(raise_on_error=False)
        expires_at = time.monotonic() + _BACKLOG_LIFETIME
        # Each refusal adds an entry to the server's ACL LOG, so do not ask again.
        is_forbidden = (redis.exceptions.NoPermissionError,)
        self._may_read = not any(isinstance(each, is_forbidden) for each in (states, *lengths))
        if any(isinstance(each, Exception) for each in (states, *lengths)):
            return Backlog(0, 0, None, expires_at)
        queue_length, lane_length = lengths
        return Backlog(queue_length, lane_length, read_lane_state(states, lane), expires_at)

    def _push(
        self,
        task_id: str,
        argument: dict[str, Any] | str,
        queue: str,
        headers: Headers = NO_HEADERS,
        target: str | None = None,
    ) -> None:
        """Write the frame that kombu would write: see docs/contract/envelope.schema.json.

        If a copy of the message was written before, this one replaces it. The first one stays, and
        with it the message's place in the queue.
        """
        self.remove(self._frames.replaced_by_next(task_id))
        copy_mark = {"redelivered": True} if task_id in self._frames else {}
        if copy_mark:  # the first one may have been answered
            headers = {name: text for name, text in headers.items() if name != "expires"}
        message = self._app.amqp.as_task_v2(task_id, self._task, args=[argument], **_REPRS)
        properties = message.properties | {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue} | copy_mark,
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        }
        frame = {
            "body": b64encode(json.dumps(message.body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": message.headers | _sent_now() | headers,
            "properties": properties,
        }
        text = json.dumps(frame)
        self._producer.channel.client.lpush(target or queue, text)
        self._frames.add(task_id, (queue, text))

    def _send_task(
        self,
        task_id: str,
        argument: dict[str, Any] | str,
        queue: str,
        headers: Headers = NO_HEADERS,
    ) -> None:
        self._app.send_task(
            self._task,
            args=[argument],
            task_id=task_id,
            queue=queue,
            # In Redis a queue needs no declaration. Without one, a producer needs no access to its
            # bindings and its length.
            declare=[] if self._is_redis else None,
            serializer="json",
            producer=self._producer,
            # redis-py reopens a closed connection itself, and a silent one has used enough time.
            retry=not self._is_redis,
            retry_policy=_RETRY_ONCE,
            headers={**_sent_now(), **headers},
            expires=_expiry(headers),
            add_to_parent=False,  # a parent task of another application would keep every result
            **_REPRS,
        )

    def is_waiting(self, task_id: str) -> bool | None:
        """Return true if a message waits in its queue; None if that is not known.

        The broker may be no Redis, or its user may not be allowed to ask.
        """
        found = self._look("lpos", self._frames[task_id])
        return any(position is not None for position in found) if found else None

    def forget(self, task_ids: Iterable[str]) -> list[Frame]:
        """Forget messages that are not sent again; return their frames."""
        return self._frames.forget(task_ids)

    def remove(self, frames: Iterable[Frame]) -> None:
        """Remove frames from the queue, if workers have not taken them."""
        self._look("lrem", frames)

    def _look(self, command: Literal["lpos", "lrem"], frames: Iterable[Frame]) -> list[Any] | None:
        """Find or remove frames wherever they may wait; return None if that is impossible."""
        if not self._may_look:
            return None
        count = () if command == "lpos" else (1,)
        try:
            pipe = self._producer.channel.client.pipeline(transaction=False)
            for queue, frame in frames:
                for key, text in frame_places(self._servers.tenant, queue, frame):
                    pipe.execute_command(command, key, *count, text)
            found: list[Any] = pipe.execute()
        except (redis.RedisError, BrokerError, KombuError, OSError) as error:
            # Each refusal adds an entry to the server's ACL LOG, so do not ask again.
            self._may_look = not isinstance(error, redis.exceptions.NoPermissionError)
            return None
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.release()


def _expiry(headers: Headers) -> datetime | None:
    return datetime.fromisoformat(headers["expires"]) if "expires" in headers else None


def _sent_now() -> dict[str, int]:
    """Return the header from which workers know how long a frame waits that is written now."""
    return {"sent_at": time.time_ns() // 1_000_000}


def _create_app() -> Celery:
    app = Celery("valetkey-producer", set_as_current=False)
    # Celery's own backend would subscribe to every result and read none of them.
    app.backend_cls = "disabled"
    app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
    return app


class Transport:
    """The broker and the result store of one client; for one thread at a time.

    Its coroutines block, and never suspend. Each raises BrokerUnreachable, within seconds, if its
    server does not answer.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._publisher = Publisher(servers)
        self._redis = connect_store(servers, retries=1)
        self._pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call]  # redis-py's gap
        self._unused_channels: set[str] = set()

    async def send(
        self,
        task_id: str,
        argument: dict[str, Any] | str,
        queue: str,
        headers: Headers = NO_HEADERS,
    ) -> None:
        """Subscribe to the result of a task, then put the task into a queue."""
        self._unused_channels.discard(RESULT_PREFIX + task_id)
        with self._servers.store_errors():
            self._pubsub.subscribe(RESULT_PREFIX + task_id)
        self._publisher.send(task_id, argument, queue, headers)

    async def listen(self, seconds: float | None) -> Results:
        """Wait for an announced result; return it, or nothing after some seconds."""
        end = time.monotonic() + (seconds or 0)
        with self._servers.store_errors():
            while event := self._pubsub.get_message(timeout=max(end - time.monotonic(), 0)):
                if event["type"] == "message":
                    return [(event["channel"].decode().removeprefix(RESULT_PREFIX), event["data"])]
        return []

    async def look_up(self, task_ids: Sequence[str]) -> Results:
        """Read the stored results of these tasks: an announcement is lost if nobody listened."""
        if not task_ids:
            return []
        with self._servers.store_errors():
            values = self._redis.mget([RESULT_PREFIX + task_id for task_id in task_ids])
        return [(task_id, raw) for task_id, raw in zip(task_ids, values, strict=True) if raw]

    async def clear(self, task_id: str) -> None:
        """Remove an unusable result, so that no lookup returns it again."""
        with self._servers.store_errors():
            self._redis.delete(RESULT_PREFIX + task_id)

    async def unsubscribe(self, task_ids: Sequence[str]) -> None:
        """Forget these tasks, and unsubscribe from their results, once there are many."""
        self._publisher.forget(task_ids)
        self._unused_channels.update(RESULT_PREFIX + task_id for task_id in task_ids)
        if len(self._unused_channels) >= UNSUBSCRIBE_BATCH:
            channels, self._unused_channels = self._unused_channels, set()
            with self._servers.store_errors():
                self._pubsub.unsubscribe(*channels)

    async def is_waiting(self, task_id: str) -> bool | None:
        """Return true if a message waits in its queue; None if that is not known."""
        return self._publisher.is_waiting(task_id)

    async def withdraw(self, task_ids: Sequence[str]) -> None:
        """Remove messages from the queue that nobody waits for."""
        self._publisher.remove(self._publisher.forget(task_ids))

    async def sleep(self, seconds: float) -> None:
        """Do nothing for some seconds."""
        time.sleep(seconds)  # noqa: ASYNC251 - it blocks, as the class says

    async def close(self) -> None:
        """Close all connections."""
        self._pubsub.close()
        self._redis.close()
        self._publisher.close()
