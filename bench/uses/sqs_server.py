"""A server of the protocol of SQS, as far as the intake of events uses it, and of HEAD requests.

It costs a tenth of MiniStack's time, so that benchmarks measure the intake. Messages are given out
once, in order, and never come again. Source: AWS, "Amazon SQS API Reference".
"""

import asyncio
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any

_MAX_MESSAGES = 10
_JSON = "content-type: application/x-amz-json-1.0"
_OBJECT = {
    "content-length": "10",
    "content-type": "image/png",
    "etag": '"0123456789abcdef"',
    "last-modified": "Tue, 24 Nov 2026 12:30:00 GMT",
}
_TARGET = b"x-amz-target: amazonsqs."


class SqsServer:
    """One queue, the times at which its messages were received and deleted, and one storage.

    stored maps the paths of objects to the ids of their grants.
    """

    def __init__(self, stored: Mapping[str, str]) -> None:
        self.port = 0
        self.deleted = 0
        self._stored = stored
        self._first_received = self._last_deleted = 0.0
        self._waiting: deque[tuple[str, str, str]] = deque()
        self._arrived = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._sent = 0

    @property
    def endpoint(self) -> str:
        """The address of its queue and of its storage."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def elapsed(self) -> float:
        """The seconds from the first receipt to the last deletion."""
        return self._last_deleted - self._first_received

    def reset(self) -> None:
        """Forget what was received and deleted."""
        self.deleted, self._first_received = 0, 0.0

    @property
    def url(self) -> str:
        """The URL of its only queue."""
        return f"{self.endpoint}/000000000000/events"

    def send(self, bodies: Iterable[str]) -> None:
        """Put messages into the queue."""
        messages = []
        for body in bodies:
            self._sent += 1
            digest = hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
            messages.append((str(self._sent), digest, body))
        self._loop.call_soon_threadsafe(self._add, messages)

    def _add(self, messages: list[tuple[str, str, str]]) -> None:
        self._waiting.extend(messages)
        self._arrived.set()

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until stopped."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.call_soon(ready)
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def stop(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _content_length(head)
                body = await reader.readexactly(length) if length else b""
                writer.write(await self._answer(head, body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()  # it, or the server, has ended

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"HEAD "):
            return self._answer_head(head.split(b" ", 2)[1].decode())
        action = head.lower().partition(_TARGET)[2].partition(b"\r\n")[0]
        if action == b"receivemessage":
            return _json(await self._receive(json.loads(body)))
        if action == b"deletemessagebatch":
            return _json(self._delete(json.loads(body)))
        return _json({"Attributes": {"ApproximateNumberOfMessages": str(len(self._waiting))}})

    async def _receive(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self._waiting:
            self._arrived.clear()
            try:
                async with asyncio.timeout(request.get("WaitTimeSeconds", 0)):
                    await self._arrived.wait()
            except TimeoutError:
                return {}
        count = min(len(self._waiting), _MAX_MESSAGES)
        messages = [self._waiting.popleft() for _ in range(count)]
        self._first_received = self._first_received or time.perf_counter()
        attributes = {"ApproximateReceiveCount": "1"}
        return {
            "Messages": [
                {
                    "MessageId": number,
                    "ReceiptHandle": number,
                    "MD5OfBody": digest,
                    "Body": body,
                    "Attributes": attributes,
                }
                for number, digest, body in messages
            ]
        }

    def _delete(self, request: dict[str, Any]) -> dict[str, Any]:
        entries = request["Entries"]
        self._last_deleted = time.perf_counter()
        self.deleted += len(entries)
        return {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}

    def _answer_head(self, path: str) -> bytes:
        grant_id = self._stored.get(path.partition("?")[0])
        if grant_id is None:
            return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        lines = _OBJECT | {"x-amz-meta-grant-id": grant_id}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode()


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)


def _json(value: dict[str, Any]) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\n{_JSON}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def running_sqs_server(stored: Mapping[str, str]) -> Iterator[SqsServer]:
    """Run the server in a thread."""
    server, ready = SqsServer(stored), list[bool]()
    thread = Thread(target=server.run, args=(lambda: ready.append(True),), daemon=True)
    thread.start()
    while not ready:
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.stop()
        thread.join()
