from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import grants
from tests.support.builders.grants import BREAKING_OUT, URL
from valetkey.cli.snippets import javascript, page, plain_text
from valetkey.wire.messages import Grant

printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)


class Page(HTMLParser):
    """What a browser would make of a page: its form, inputs in order, scripts and text."""

    def __init__(self, grant: Grant) -> None:
        super().__init__()
        self.form: dict[str, str | None] = {}
        self.inputs: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.script = ""
        self.feed(page(grant))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "form":
            self.form = dict(attrs)
        if tag == "input":
            self.inputs.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.script += data
        else:
            self.text += data


@given(printable)
def test_a_page_has_a_form_with_every_field_as_it_is_and_the_file_last(key: str) -> None:
    grant = grants.form(key, acl=key)
    *hidden, file = Page(grant).inputs
    assert {field["name"]: field["value"] for field in hidden} == grant.fields
    assert {field["type"] for field in hidden} == {"hidden"}
    assert (file["type"], file["name"]) == ("file", "file")


def test_a_page_posts_its_form_as_storage_wants_it() -> None:
    assert Page(grants.form()).form == {
        "action": URL,
        "method": "post",
        "enctype": "multipart/form-data",
        "accept-charset": "utf-8",
    }


def test_a_form_needs_no_script() -> None:
    assert "script" not in Page(grants.form()).tags


def test_a_form_whose_client_chooses_the_type_has_a_field_for_it_before_the_file() -> None:
    shown = Page(grants.form(family="image/"))
    chosen, file = shown.inputs[-2:]
    assert (chosen["name"], chosen["value"], file["name"]) == ("Content-Type", "image/", "file")
    assert "files[0]?.type" in shown.script


def test_a_put_has_a_file_and_the_script_that_sends_it() -> None:
    shown = Page(grants.put())
    assert [field["type"] for field in shown.inputs] == ["file"]
    assert javascript(grants.put()) in shown.script


@pytest.mark.parametrize("make", [grants.form, grants.put])
def test_a_key_adds_no_markup_to_a_page(make: object) -> None:
    assert callable(make)
    hostile = Page(make(BREAKING_OUT))
    assert hostile.tags == Page(make("a")).tags
    assert BREAKING_OUT in hostile.text


def test_no_header_or_url_ends_a_pages_script() -> None:
    hostile = grants.put(headers={"x-amz-meta-a": BREAKING_OUT}, url=URL + BREAKING_OUT)
    shown = Page(hostile)
    assert shown.tags == Page(grants.put()).tags
    assert javascript(hostile) in shown.script
    assert "<" not in javascript(hostile)


@pytest.mark.parametrize("grant", [grants.grant(), grants.multipart()])
def test_what_takes_no_file_has_no_page(grant: Grant) -> None:
    with pytest.raises(ValueError, match="only an upload or a put"):
        page(grant)


def test_a_form_is_readable_field_by_field() -> None:
    lines = plain_text(grants.form("a/b.png")).splitlines()
    assert lines[:2] == [f"POST {URL}", "  key     a/b.png"]
    assert "before 2026-11-24 12:00:00 UTC (limited by request)." in lines


def test_a_form_whose_client_chooses_the_type_says_so() -> None:
    line = "  Content-Type  (the file's own, which begins with image/)"
    assert line in plain_text(grants.form(family="image/")).splitlines()


def test_a_put_is_readable_header_by_header() -> None:
    lines = plain_text(grants.put()).splitlines()
    assert lines[:3] == [f"PUT {URL}", "  content-type    image/jpeg", "  content-length  5"]


def test_a_download_with_headers_says_so() -> None:
    lines = plain_text(grants.grant(headers={"x-amz-expected-bucket-owner": "1"})).splitlines()
    assert lines[1] == "  x-amz-expected-bucket-owner  1"
    assert "--html" not in lines[-1]
