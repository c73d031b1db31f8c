"""A web page that uploads a file straight to storage, and says when it is stored.

    python examples/jobs/upload_slots.py

The program hands out upload slots and never sees a file. It keeps nothing in memory: any process of
the tenant can look up by a slot's id whether its file is stored.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from valetkey import BrokerUnreachable, Client, Code, NoAnswer, NotStored, Refused, new_id

MAX_SIZE = 1_000_000  # bytes of one file; storage refuses more
LIFETIME = 900  # seconds in which a slot can be used
WAIT = 20.0  # seconds until the page asks again
MAX_BODY = 10_000  # bytes of a request to this program
PAGE = Path(__file__).with_suffix(".html").read_bytes()
TRY_AGAIN = 503, {"problem": "The service does not answer. Try again."}

Answer = tuple[int, dict[str, Any]]


def request_slot(client: Client, name: str) -> Answer:
    """Request a form for a file of this name, under a key that nobody else gets."""
    key = f"acme/inbox/{new_id()}/{name}"  # your code: the user's own folder
    try:
        handle = client.upload("demo", key, max_size=MAX_SIZE, expires_in=LIFETIME)
        grant = handle.result(timeout=5)
    except Refused as error:
        is_quota = error.refusal.code is Code.QUOTA_EXCEEDED
        return 429 if is_quota else 403, {"problem": error.refusal.message}
    except (NoAnswer, BrokerUnreachable):
        return TRY_AGAIN
    return 200, {"id": grant.id, "url": grant.url, "fields": grant.fields}


def wait_until_stored(client: Client, slot: str) -> Answer:
    """Say what storage has of a slot; 202 if it is open, after some seconds of waiting."""
    # Your code: check that the slot is this user's.
    try:
        stored = client.batch(slot, timeout=5).stored(0, timeout=WAIT)
    except NotStored as error:
        is_open = error.use.state == "open"
        return (202 if is_open else 200), {"state": error.use.state, "problem": error.use.problem}
    except (ValueError, Refused):
        return 404, {"problem": "There is no such slot."}
    except (NoAnswer, BrokerUnreachable):
        return TRY_AGAIN
    return 200, {"state": "stored", "size": stored.size}


class Handler(BaseHTTPRequestHandler):
    """Serves the page, slots at POST /slots, and their states at GET /slots/ID."""

    timeout = 30  # seconds for a request to arrive: its thread does not wait for ever

    def __init__(self, client: Client, *arguments: Any) -> None:
        self._client = client
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Serve the page or the state of a slot."""
        folder, _, slot = self.path.rpartition("/")
        if self.path == "/":
            self._reply(200, PAGE, "text/html; charset=utf-8")
        elif folder == "/slots":
            self._reply_json(*wait_until_stored(self._client, slot))
        else:
            self._reply_json(404, {"problem": "There is no such page."})

    def do_POST(self) -> None:
        """Hand out a slot for the file name in the body."""
        length = self.headers.get("content-length", "")
        if self.path != "/slots" or not length.isdecimal() or int(length) > MAX_BODY:
            self._reply_json(400, {"problem": f"POST /slots takes at most {MAX_BODY:,} bytes."})
            return
        try:
            name = json.loads(self.rfile.read(int(length)))["name"]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._reply_json(400, {"problem": 'The body must be like {"name": "cat.jpg"}.'})
            return
        self._reply_json(*request_slot(self._client, str(name)))

    def _reply_json(self, status: int, values: dict[str, Any]) -> None:
        self._reply(status, json.dumps(values).encode(), "application/json")

    def _reply(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")  # a form is a secret
        self.end_headers()
        with suppress(ConnectionError):  # the page was closed meanwhile
            self.wfile.write(body)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serves a page that uploads files to storage.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    port = parser.parse_args(arguments).port
    with (
        suppress(KeyboardInterrupt),
        Client(requested_by="upload-slots") as client,
        ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, client)) as server,
    ):
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
