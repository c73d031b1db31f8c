"""Uses the page that `--html` writes in a browser, and runs storage that answers it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.builders import grants
from tests.support.fakes.http_storage import (
    HttpStorage,
    StorageResponse,
    StoredRequest,
    running_http_storage,
)
from tests.support.s3.chromium import Tab
from tests.support.servers.waiting import wait_until
from valetkey.wire.replies import Grant
from worker import clock

CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "*",
    "access-control-allow-methods": "*",
}


def future(seconds: int = 3_600) -> datetime:
    return clock.now() + timedelta(seconds=seconds)


def open_page(tab: Tab, page: str, file: Path) -> None:
    path = file.with_name("page.html")
    path.write_text(page, encoding="utf-8")
    tab.open(path)


def submit(tab: Tab, page: str, file: Path) -> None:
    open_page(tab, page, file)
    tab.choose_file(file)
    press_upload(tab)


def press_upload(tab: Tab) -> None:
    tab.evaluate("document.querySelector('.send').click()")


def notice(tab: Tab) -> str:
    return tab.evaluate("document.querySelector('#notice:not([hidden])')?.innerText") or ""


def wait_for_notice(tab: Tab, text: str) -> None:
    wait_until(lambda: text in notice(tab), 10, what=f"the page says {text!r}")


def is_disabled(tab: Tab) -> bool:
    return bool(tab.evaluate("document.querySelector('.send').disabled"))


@contextmanager
def storage(*answers: StorageResponse, cors: bool = True) -> Iterator[HttpStorage]:
    """Run a storage that gives these answers in turn, and lets pages read them, or not."""
    left = list(answers)

    def respond(request: StoredRequest) -> StorageResponse:
        if request.method == "OPTIONS":
            return StorageResponse(200 if cors else 403, CORS if cors else {})
        answer = left.pop(0)
        return answer._replace(headers=answer.headers if not cors else {**answer.headers, **CORS})

    with running_http_storage(respond) as server:
        yield server


def form(server: HttpStorage, **fields: Any) -> Grant:
    return replace(grants.form(**fields), url=f"{server.url}/bucket", expires_at=future())
