"""The page that `--html` writes, in a real browser: what storage answers is said in words."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.contract.clients.conftest import FILE, odd_key
from tests.support.builders import grants
from tests.support.fakes.http_storage import StorageResponse, running_http_storage
from tests.support.s3.chromium import Tab
from tests.support.s3.stores import Store, new_key
from tests.support.s3.upload_page import (
    form,
    future,
    notice,
    press_upload,
    storage,
    submit,
    wait_for_notice,
)
from tests.support.servers.waiting import wait_until
from valetkey.cli import snippets

pytestmark = pytest.mark.usefixtures("cors", "fresh_tab")


def test_a_page_uploads_and_says_what_is_stored(store: Store, tab: Tab, picture: Path) -> None:
    grant = store.upload(odd_key(new_key()))
    submit(tab, snippets.render_page(grant), picture)
    wait_for_notice(tab, "Stored.")
    assert f"{picture.name}, 17 bytes" in notice(tab)
    assert tab.evaluate("document.activeElement.id") == "notice"
    stored = store.get_object(grant.key)
    assert (stored["Body"], stored["ContentType"]) == (FILE, "image/png")
    assert stored["Metadata"] == {"origin": "camera 7", "grant-id": grant.id}


def test_a_page_puts_and_says_what_is_stored(store: Store, tab: Tab, picture: Path) -> None:
    grant = store.put(new_key(), len(FILE))
    submit(tab, snippets.render_page(grant), picture)
    wait_for_notice(tab, "Stored.")
    assert store.get_object(grant.key)["Body"] == FILE


def test_a_page_works_without_scripts(store: Store, tab: Tab, picture: Path) -> None:
    grant = store.upload(new_key())
    path = picture.with_name("page.html")
    path.write_text(snippets.render_page(grant), encoding="utf-8")
    tab.set_scripting(enabled=False)
    tab.open(path)
    tab.choose_file(picture)
    press_upload(tab)
    wait_until(lambda: store.has_object(grant.key), what="the object is stored")
    assert store.get_object(grant.key)["Body"] == FILE


def test_storages_refusal_of_a_file_is_explained(store: Store, tab: Tab, picture: Path) -> None:
    picture.write_bytes(bytes(101))
    grant = store.upload(new_key())
    page = snippets.render_page(grant).replace('"max_size": 100,', '"max_size": 1000,')
    submit(tab, page, picture)
    wait_for_notice(tab, "larger than storage accepts")
    assert "The file is not stored." in notice(tab)
    assert "EntityTooLarge, status 400" in notice(tab)
    assert not store.has_object(grant.key)


def test_storages_refusal_of_a_changed_form_is_explained(
    store: Store, tab: Tab, picture: Path
) -> None:
    grant = store.upload(new_key())
    fields = grant.fields | {"x-amz-signature": "0" * 64}
    submit(tab, snippets.render_page(replace(grant, fields=fields)), picture)
    wait_for_notice(tab, "SignatureDoesNotMatch")
    assert "Ask whoever gave you this page for a new one." in notice(tab)


def test_storages_refusal_of_an_expired_form_is_explained(
    store: Store, tab: Tab, picture: Path
) -> None:
    grant = store.sign(
        {"kind": "upload", "max_size": 100},
        {"key": new_key()},
        issued=-timedelta(minutes=10),
    )
    late = replace(grant, expires_at=future())  # as if the clock of the browser were wrong
    submit(tab, snippets.render_page(late), picture)
    wait_for_notice(tab, "expired")
    assert not store.has_object(grant.key)


@pytest.mark.parametrize("cors", [True, False])
def test_a_page_says_no_more_than_storage_lets_it_read(
    tab: Tab, picture: Path, *, cors: bool
) -> None:
    words = "Stored." if cors else "does not let this page read the answer"
    picture.write_bytes(b"12345")
    with storage(StorageResponse(204), cors=cors) as server:
        submit(tab, snippets.render_page(form(server)), picture)
        wait_for_notice(tab, words)
        assert len(server.requests("POST")) == 1


def test_a_page_without_cors_offers_a_plain_form(tab: Tab, picture: Path) -> None:
    picture.write_bytes(b"12345")
    with storage(StorageResponse(204), StorageResponse(403), cors=False) as server:
        submit(tab, snippets.render_page(form(server)), picture)
        wait_for_notice(tab, "does not let this page read the answer")
        tab.evaluate("document.querySelector('.answer').click()")
        wait_until(lambda: len(server.requests("POST")) == 2, what="the form is sent")
        first, second = server.requests("POST")
        assert b"12345" in first.body
        assert b"12345" in second.body


def test_a_put_that_storage_does_not_let_a_page_send_is_explained(tab: Tab, picture: Path) -> None:
    with storage(cors=False) as server:
        grant = replace(grants.put(size=len(FILE)), url=server.url, expires_at=future())
        submit(tab, snippets.render_page(grant), picture)
        wait_for_notice(tab, "its bucket then needs CORS rules")
        assert server.requests("PUT") == []


def test_a_page_follows_the_redirect_of_its_grant(tab: Tab, picture: Path) -> None:
    picture.write_bytes(b"12345")
    with running_http_storage(lambda _: StorageResponse(200, {}, b"thanks")) as app:
        target = f"{app.url}/thanks"
        with storage(StorageResponse(303, {"location": target}), cors=False) as server:
            submit(tab, snippets.render_page(form(server, success_action_redirect=target)), picture)
            wait_until(lambda: tab.evaluate("document.URL") == target, what="redirected")


def test_a_page_says_that_the_connection_broke(tab: Tab, picture: Path) -> None:
    picture.write_bytes(b"12345")
    with storage(StorageResponse(0)) as server:
        submit(tab, snippets.render_page(form(server)), picture)
        wait_for_notice(tab, "It is not known whether the file is stored.")


def test_storage_that_is_not_there_is_named(tab: Tab, picture: Path) -> None:
    picture.write_bytes(b"12345")
    with storage() as server:
        page = snippets.render_page(form(server))
    submit(tab, page, picture)
    wait_for_notice(tab, "Storage cannot be reached.")
