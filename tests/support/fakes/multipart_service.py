"""A fake service whose multipart grants lead to a fake storage, and a small file to upload."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import Result

from tests.support.cli import interrupted_download
from tests.support.fakes.fake_service import FakeService, grant_outcome, running_fake_service
from tests.support.fakes.http_storage import (
    HttpStorage,
    StorageResponse,
    StoredRequest,
    running_http_storage,
)

CONTENT = bytes(range(23))
PART = 5
STATE = Path("film.upload.json")
COMPLETED = b"<CompleteMultipartUploadResult/>"


def accept_all(request: StoredRequest) -> StorageResponse:
    """Respond as a storage that accepts every request."""
    if request.method == "PUT":
        return StorageResponse(200, {"ETag": f'"e{part_number(request)}"'})
    return StorageResponse(200, {}, COMPLETED) if request.method == "POST" else StorageResponse(204)


def part_number(request: StoredRequest) -> int:
    return int(request.target.partition("part=")[2] or 0)


@contextmanager
def service(
    broker: str, respond: Callable[[StoredRequest], StorageResponse] = accept_all, aborting: int = 0
) -> Iterator[tuple[FakeService, HttpStorage]]:
    """Run a service whose grants have the URLs of a storage with these responses."""
    with running_http_storage(respond) as storage:
        first: list[dict[str, Any]] = []

        def decide(message: dict[str, Any]) -> dict[str, Any]:
            if message.get("ask") == "cancel":
                counts = {"issued": 1, "released": 0, "aborting": aborting}
                return {"status": "cancelled", "batch": message["batch"]} | counts
            if message.get("ask") == "batch":
                return first[0] if "chunk" in message else batch_state(message["batch"])
            outcome = grant_outcome(message)
            for item in (item for item in outcome["items"] if "url" in item):
                set_urls(item, message["grant"]["kind"], storage.url)
            first.append(outcome)
            return outcome

        with running_fake_service(broker, decide=decide) as fake_service:
            yield fake_service, storage


def batch_state(batch: str) -> dict[str, Any]:
    state = {"status": "found", "batch": batch, "kind": "multipart", "bucket": "inbox"}
    return state | {"total": 1, "chunk_size": 600, "decided": 1, "issued": 1, "refused": 0}


def set_urls(item: dict[str, Any], kind: str, url: str) -> None:
    if kind == "multipart":
        item["url"] = f"{url}/complete?s3cret"
        item["multipart"] |= {"abort_url": f"{url}/abort", "part_size": PART, "part_count": 5}
    elif kind == "parts":
        last = item["part"] == 5
        item["url"] = f"{url}/film?s3cret&part={item['part']}"
        item["headers"] = {"content-length": str(len(CONTENT) % PART if last else PART)}


def press_ctrl_c_at_part(*numbers: int) -> Callable[[StoredRequest], StorageResponse]:
    """Return the responses of a storage that presses Ctrl-C before it stores each of these parts.

    It then refuses all parts until the same one is sent again, by the next run: the command may
    send others before it notices the interrupt.
    """
    remaining, interrupted_at = list(numbers), set[int]()

    def respond(request: StoredRequest) -> StorageResponse:
        number = part_number(request)
        if interrupted_at and number not in interrupted_at and request.method == "PUT":
            return StorageResponse(503)
        if interrupted_at and request.method == "PUT":
            interrupted_at.clear()
        elif remaining and number == remaining[0]:
            interrupted_at.add(remaining.pop(0))
            os.kill(os.getpid(), signal.SIGINT)
            return StorageResponse(503)
        return accept_all(request)

    return respond


def run_upload(*options: str) -> Result:
    return interrupted_download.run_cli("multipart", "inbox", "a/film", "--file", "film", *options)
