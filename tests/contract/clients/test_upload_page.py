"""The page that `--html` writes, in a real browser: what storage answers is said in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.contract.clients.conftest import FILE, odd_key
from tests.support.builders import grants
from tests.support.fakes.http_storage import (
    HttpStorage,
    StorageResponse,
    StoredRequest,
    running_http_storage,
)
from tests.support.s3.chromium import Tab
from tests.support.s3.stores import Store, new_key
from tests.support.servers.waiting import wait_until
from valetkey.cli import snippets
from valetkey.wire.replies import Grant
from worker import clock

CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "*",
    "access-control-allow-methods": "*",
}


def future(seconds: int = 3_600) -> datetime:
    return clock.now() + timedelta(seconds=seconds)


class Page:
    """The page of a grant in the browser, and the file that is uploaded with it."""

    def __init__(self, tab: Tab, file: Path) -> None:
        self.tab, self.file = tab, file

    def open(self, grant: Grant | str) -> None:
        """Open the page of a grant, or this text of a page."""
        path = self.file.with_name("page.html")
        text = grant if isinstance(grant, str) else snippets.render_page(grant)
        path.write_text(text, encoding="utf-8")
        self.tab.open(path)

    def submit(self, grant: Grant | str) -> None:
        self.open(grant)
        self.tab.choose_file(self.file)
        self.press_upload()

    def press_upload(self) -> None:
        self.tab.evaluate("document.querySelector('.send').click()")

    def notice(self) -> str:
        return self.tab.evaluate("document.querySelector('#notice:not([hidden])')?.innerText") or ""

    def wait_for_notice(self, text: str) -> None:
        wait_until(lambda: text in self.notice(), 10, what=f"the page says {text!r}")

    def is_disabled(self) -> bool:
        return bool(self.tab.evaluate("document.querySelector('.send').disabled"))


@pytest.fixture
def page(tab: Tab, picture: Path) -> Page:
    return Page(tab, picture)


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


pytestmark = pytest.mark.usefixtures("cors", "fresh_tab")


def test_a_page_uploads_and_says_what_is_stored(store: Store, page: Page) -> None:
    grant = store.upload(odd_key(new_key()))
    page.submit(grant)
    page.wait_for_notice("Stored.")
    assert f"{page.file.name}, 17 bytes" in page.notice()
    assert page.tab.evaluate("document.activeElement.id") == "notice"
    stored = store.get_object(grant.key)
    assert (stored["Body"], stored["ContentType"]) == (FILE, "image/png")
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_page_puts_and_says_what_is_stored(store: Store, page: Page) -> None:
    grant = store.put(new_key(), len(FILE))
    page.submit(grant)
    page.wait_for_notice("Stored.")
    assert store.get_object(grant.key)["Body"] == FILE


def test_a_page_works_without_scripts(store: Store, page: Page) -> None:
    grant = store.upload(new_key())
    page.tab.set_scripting(enabled=False)
    page.open(grant)
    page.tab.choose_file(page.file)
    page.press_upload()
    wait_until(lambda: store.has_object(grant.key), what="the object is stored")
    assert store.get_object(grant.key)["Body"] == FILE


def test_storages_refusal_of_a_file_is_explained(store: Store, page: Page) -> None:
    page.file.write_bytes(bytes(101))
    grant = store.upload(new_key())
    text = snippets.render_page(grant).replace('"max_size": 100,', '"max_size": 1000,')
    page.submit(text)
    page.wait_for_notice("larger than storage accepts")
    assert "The file is not stored." in page.notice()
    assert "EntityTooLarge, status 400" in page.notice()
    assert not store.has_object(grant.key)


def test_storages_refusal_of_a_changed_form_is_explained(store: Store, page: Page) -> None:
    grant = store.upload(new_key())
    fields = grant.fields | {"x-amz-signature": "0" * 64}
    page.submit(replace(grant, fields=fields))
    page.wait_for_notice("SignatureDoesNotMatch")
    assert "Ask whoever gave you this page for a new one." in page.notice()


def test_storages_refusal_of_an_expired_form_is_explained(store: Store, page: Page) -> None:
    grant = store.sign(
        {"kind": "upload", "max_size": 100}, {"key": new_key()}, issued=-timedelta(minutes=10)
    )
    late = replace(grant, expires_at=future())  # as if the clock of the browser were wrong
    page.submit(late)
    page.wait_for_notice("expired")
    assert not store.has_object(grant.key)


@pytest.mark.parametrize("cors", [True, False])
def test_a_page_says_no_more_than_storage_lets_it_read(page: Page, *, cors: bool) -> None:
    words = "Stored." if cors else "does not let this page read the answer"
    page.file.write_bytes(b"12345")
    with storage(StorageResponse(204), cors=cors) as server:
        page.submit(form(server))
        page.wait_for_notice(words)
        assert len(server.requests("POST")) == 1


def test_a_page_without_cors_offers_a_plain_form(page: Page) -> None:
    page.file.write_bytes(b"12345")
    with storage(StorageResponse(204), StorageResponse(403), cors=False) as server:
        page.submit(form(server))
        page.wait_for_notice("does not let this page read the answer")
        page.tab.evaluate("document.querySelector('.answer').click()")
        wait_until(lambda: len(server.requests("POST")) == 2, what="the form is sent")
        first, second = server.requests("POST")
        assert b"12345" in first.body
        assert b"12345" in second.body


def test_a_put_that_storage_does_not_let_a_page_send_is_explained(page: Page) -> None:
    with storage(cors=False) as server:
        grant = replace(grants.put(size=len(FILE)), url=server.url, expires_at=future())
        page.submit(grant)
        page.wait_for_notice("its bucket then needs CORS rules")
        assert server.requests("PUT") == []


def test_a_page_follows_the_redirect_of_its_grant(page: Page) -> None:
    page.file.write_bytes(b"12345")
    with running_http_storage(lambda _: StorageResponse(200, {}, b"thanks")) as app:
        target = f"{app.url}/thanks"
        with storage(StorageResponse(303, {"location": target}), cors=False) as server:
            page.submit(form(server, success_action_redirect=target))
            wait_until(lambda: page.tab.evaluate("document.URL") == target, what="redirected")


def test_a_page_says_that_the_connection_broke(page: Page) -> None:
    page.file.write_bytes(b"12345")
    with storage(StorageResponse(0)) as server:
        page.submit(form(server))
        page.wait_for_notice("It is not known whether the file is stored.")


def test_storage_that_is_not_there_is_named(page: Page) -> None:
    page.file.write_bytes(b"12345")
    with storage() as server:
        text = snippets.render_page(form(server))
    page.submit(text)
    page.wait_for_notice("Storage cannot be reached.")


CHOOSE = "document.querySelector('input[type=file]')"
# The ratio of the colors of each visible text and its background (WCAG 2.2, 1.4.3).
CONTRASTS = """(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const back = (element) => {
    const color = parse(getComputedStyle(element).backgroundColor);
    return color[3] === 0 ? back(element.parentElement) : color;
  };
  const has = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.body.querySelectorAll("*")].filter((e) => e.checkVisibility() && has(e))
    .filter((e) => e.tagName !== "BUTTON" || !e.disabled)
    .map((e) => [light(parse(getComputedStyle(e).color)), light(back(e))].sort((a, b) => b - a))
    .map(([high, low]) => (high + 0.05) / (low + 0.05));
})()"""


@pytest.mark.parametrize(
    ("size", "family", "words"),
    [
        (101, "image/png", "too large: it has 101 bytes, and at most 100 bytes are allowed."),
        (9, "image/png", "too small: it has 9 bytes, and at least 10 bytes are needed."),
        (0, "image/png", "This file is empty."),
        (17, "video/*", "the wrong type: it is image/png, and only video/* is allowed."),
    ],
)
def test_a_file_that_is_not_allowed_is_refused_before_it_is_sent(
    signing_store: Store, page: Page, size: int, family: str, words: str
) -> None:
    page.file.write_bytes(bytes(size))
    grant = signing_store.upload(new_key(), content_type=family)
    page.submit(grant)
    assert page.notice().strip().endswith(words)
    assert page.is_disabled()
    assert not signing_store.has_object(grant.key)


def test_a_file_of_another_type_than_expected_is_pointed_out(
    signing_store: Store, page: Page
) -> None:
    text = page.file.with_name("notes.txt")
    text.write_bytes(FILE)
    page.open(signing_store.upload(new_key()))
    page.tab.choose_file(text)
    assert "seems to be text/plain, but image/png is expected" in page.notice()
    assert not page.is_disabled()


@pytest.mark.parametrize("seconds", [-1, 3], ids=["before it is opened", "while it is open"])
def test_a_page_that_expires_says_so_and_sends_nothing(
    signing_store: Store, page: Page, seconds: int
) -> None:
    grant = replace(signing_store.upload(new_key()), expires_at=future(seconds))
    page.open(grant)
    page.wait_for_notice("This page has expired.")
    assert page.is_disabled()


def test_a_page_can_be_used_with_the_keyboard_alone(signing_store: Store, page: Page) -> None:
    grant = signing_store.upload(new_key())
    page.open(grant)
    page.tab.press("Tab", 9)
    assert page.tab.evaluate("document.activeElement.id") == "file"
    page.tab.choose_file(page.file)
    page.tab.press("Tab", 9)
    assert page.tab.evaluate("document.activeElement.className") == "send"
    page.tab.press("Enter", 13, "\r")
    page.wait_for_notice("Stored.")
    assert signing_store.has_object(grant.key)


def test_what_a_screen_reader_needs_is_there(signing_store: Store, page: Page) -> None:
    page.open(signing_store.upload(new_key()))
    parts = {
        "document.documentElement.lang": "en",
        f"{CHOOSE}.labels[0].innerText": "Choose a file",
        "document.querySelector('#notice').getAttribute('role')": "status",
        "document.querySelector('progress').getAttribute('aria-label')": "Progress",
    }
    assert {script: page.tab.evaluate(script) for script in parts} == parts
    heights = page.tab.evaluate(
        "['.drop', '.send'].map((s) => document.querySelector(s).offsetHeight)"
    )
    assert min(heights) >= 44


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [17, 101])
def test_every_text_contrasts_with_its_background(
    signing_store: Store, page: Page, color_scheme: str, size: int
) -> None:
    page.file.write_bytes(bytes(size))
    page.tab.emulate(color_scheme)
    page.submit(signing_store.upload(new_key()))
    wait_until(lambda: bool(page.notice()), what="the page says something")
    contrasts = page.tab.evaluate(CONTRASTS)
    assert len(contrasts) > 8
    assert min(contrasts) >= 4.5


def test_a_name_that_reverses_the_text_around_it_is_shown_harmlessly(
    signing_store: Store, page: Page
) -> None:
    hostile = page.file.with_name("invoice\u202egpj.<b>exe")
    hostile.write_bytes(FILE)
    page.open(signing_store.upload(new_key()))
    page.tab.choose_file(hostile)
    shown = page.tab.evaluate("document.querySelector('.name').textContent")
    assert shown == "invoice\ufffdgpj.<b>exe"
