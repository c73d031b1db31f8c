"""The page that `--html` writes, in a real browser: its limits, the keyboard, names and colors."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.clients.conftest import FILE
from tests.support.s3.chromium import Tab
from tests.support.s3.stores import Store, new_key
from tests.support.s3.upload_page import (
    future,
    is_disabled,
    notice,
    open_page,
    submit,
    wait_for_notice,
)
from tests.support.servers.waiting import wait_until
from valetkey.cli import snippets

pytestmark = pytest.mark.usefixtures("cors", "fresh_tab")

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
    ("size", "words"),
    [
        (101, "This file is too large: it has 101 bytes, and at most 100 bytes are allowed."),
        (9, "This file is too small: it has 9 bytes, and at least 10 bytes are needed."),
        (0, "This file is empty."),
    ],
)
def test_a_file_outside_the_limits_is_refused_before_it_is_sent(
    signing_store: Store, tab: Tab, picture: Path, size: int, words: str
) -> None:
    picture.write_bytes(bytes(size))
    grant = signing_store.upload(new_key())
    submit(tab, snippets.render_page(grant), picture)
    assert notice(tab).strip() == words
    assert is_disabled(tab)
    assert not signing_store.has_object(grant.key)


def test_a_file_of_another_family_is_refused_before_it_is_sent(
    signing_store: Store, tab: Tab, picture: Path
) -> None:
    page = snippets.render_page(signing_store.upload(new_key(), content_type="video/*"))
    submit(tab, page, picture)
    expected = "This file has the wrong type: it is image/png, and only video/* is allowed."
    assert notice(tab).strip() == expected
    assert is_disabled(tab)


def test_a_file_of_another_type_than_expected_is_pointed_out(
    signing_store: Store, tab: Tab, picture: Path
) -> None:
    text = picture.with_name("notes.txt")
    text.write_bytes(FILE)
    open_page(tab, snippets.render_page(signing_store.upload(new_key())), picture)
    tab.choose_file(text)
    assert "seems to be text/plain, but image/png is expected" in notice(tab)
    assert not is_disabled(tab)


def test_an_expired_page_says_so_and_sends_nothing(
    signing_store: Store, tab: Tab, picture: Path
) -> None:
    grant = replace(signing_store.upload(new_key()), expires_at=future(-1))
    open_page(tab, snippets.render_page(grant), picture)
    assert "This page has expired." in notice(tab)
    assert is_disabled(tab)


def test_a_page_that_expires_while_it_is_open_says_so(
    signing_store: Store, tab: Tab, picture: Path
) -> None:
    grant = replace(signing_store.upload(new_key()), expires_at=future(3))
    open_page(tab, snippets.render_page(grant), picture)
    wait_for_notice(tab, "This page has expired.")


def test_a_page_can_be_used_with_the_keyboard_alone(
    signing_store: Store, tab: Tab, picture: Path
) -> None:
    grant = signing_store.upload(new_key())
    open_page(tab, snippets.render_page(grant), picture)
    tab.press("Tab", 9)
    assert tab.evaluate("document.activeElement.id") == "file"
    tab.choose_file(picture)
    tab.press("Tab", 9)
    assert tab.evaluate("document.activeElement.className") == "send"
    tab.press("Enter", 13, "\r")
    wait_for_notice(tab, "Stored.")
    assert signing_store.has_object(grant.key)


def test_what_a_screen_reader_needs_is_there(signing_store: Store, tab: Tab, picture: Path) -> None:
    open_page(tab, snippets.render_page(signing_store.upload(new_key())), picture)
    parts = {
        "document.documentElement.lang": "en",
        f"{CHOOSE}.labels[0].innerText": "Choose a file",
        "document.querySelector('#notice').getAttribute('role')": "status",
        "document.querySelector('progress').getAttribute('aria-label')": "Progress",
    }
    assert {script: tab.evaluate(script) for script in parts} == parts
    heights = tab.evaluate("['.drop', '.send'].map((s) => document.querySelector(s).offsetHeight)")
    assert min(heights) >= 44


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [17, 101])
def test_every_text_contrasts_with_its_background(
    signing_store: Store, tab: Tab, picture: Path, color_scheme: str, size: int
) -> None:
    picture.write_bytes(bytes(size))
    tab.emulate(color_scheme)
    submit(tab, snippets.render_page(signing_store.upload(new_key())), picture)
    wait_until(lambda: bool(notice(tab)), what="the page says something")
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 8
    assert min(contrasts) >= 4.5


def test_a_name_that_reverses_the_text_around_it_is_shown_harmlessly(
    signing_store: Store, tab: Tab, picture: Path
) -> None:
    hostile = picture.with_name("invoice\u202egpj.<b>exe")
    hostile.write_bytes(FILE)
    open_page(tab, snippets.render_page(signing_store.upload(new_key())), picture)
    tab.choose_file(hostile)
    shown = tab.evaluate("document.querySelector('.name').textContent")
    assert shown == "invoice\ufffdgpj.<b>exe"
