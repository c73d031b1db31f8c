"""Receives webhooks over HTTPS, in a process of its own that needs little CPU.

The arguments are a PEM file with a certificate and its key, and for each port to open the seconds
after which it responds; `inf` never responds. The process writes the list of ports, and for each
line of stdin a report of what it received since the last one.
"""

import asyncio
import json
import math
import ssl
import sys
import time
from functools import partial
from typing import Any

_RESPONSE = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receipts:
    """The times of the first receipts by webhook-id, the number of all, and the last body."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all receipts."""
        self.times: dict[str, float] = {}
        self.count = 0
        self.body = b""

    def report(self) -> dict[str, Any]:
        """Return the receipts and the CPU seconds of this process, and forget the receipts."""
        report = {"times": self.times, "count": self.count, "body": self.body.decode()}
        self.reset()
        return report | {"cpu": time.process_time()}


class _Connection(asyncio.Protocol):
    def __init__(self, delay: float, receipts: Receipts) -> None:
        self._delay = delay
        self._receipts = receipts
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
        headers = {name.lower(): value for name, _, value in lines}
        length = int(headers[b"content-length"])
        if len(rest) < length:
            return
        self._buffer, body = rest[length:], rest[:length]
        self._receipts.count += 1
        self._receipts.body = body
        self._receipts.times.setdefault(headers.get(b"webhook-id", b"").decode(), time.monotonic())
        if self._delay == 0:
            self._transport.write(_RESPONSE)
        elif math.isfinite(self._delay):
            loop = asyncio.get_running_loop()
            loop.call_later(self._delay, self._transport.write, _RESPONSE)


async def _serve(certificate: str, delays: list[float]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    loop, receipts, ports = asyncio.get_running_loop(), Receipts(), []
    for delay in delays:
        connect = partial(_Connection, delay, receipts)
        server = await loop.create_server(connect, "127.0.0.1", 0, ssl=tls, backlog=256)
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(receipts.report()), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], [float(text) for text in sys.argv[2:]]))
