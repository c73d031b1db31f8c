from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import grants
from tests.support.builders.grants import BREAKING_OUT, URL
from valetkey.cli.snippets import render_javascript, render_page, render_text
from valetkey.wire.replies import Grant

printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)


class ParsedPage(HTMLParser):
    """A parsed page: its form, its inputs in order, its scripts and its text."""

    def __init__(self, grant: Grant) -> None:
        super().__init__()
        self.form: dict[str, str | None] = {}
        self.inputs: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.script = ""
        self.feed(render_page(grant))
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
def test_a_page_has_a_form_with_every_field_unchanged_and_the_file_last(key: str) -> None:
    grant = grants.form(key, acl=key)
    *hidden, file = ParsedPage(grant).inputs
    assert {field["name"]: field["value"] for field in hidden} == grant.fields
    assert {field["type"] for field in hidden} == {"hidden"}
    assert (file["type"], file["name"]) == ("file", "file")


def test_a_page_posts_its_form_as_multipart_form_data() -> None:
    assert ParsedPage(grants.form()).form == {
        "action": URL,
        "method": "post",
        "enctype": "multipart/form-data",
        "accept-charset": "utf-8",
    }


def test_a_form_needs_no_script() -> None:
    assert "script" not in ParsedPage(grants.form()).tags


def test_a_form_with_a_free_content_type_has_a_field_for_it_before_the_file() -> None:
    parsed = ParsedPage(grants.form(type_prefix="image/"))
    content_type, file = parsed.inputs[-2:]
    assert (content_type["name"], content_type["value"], file["name"]) == (
        "Content-Type",
        "image/",
        "file",
    )
    assert "files[0]?.type" in parsed.script


def test_a_put_page_has_a_file_input_and_the_script_that_sends_it() -> None:
    parsed = ParsedPage(grants.put())
    assert [field["type"] for field in parsed.inputs] == ["file"]
    assert render_javascript(grants.put()) in parsed.script


@pytest.mark.parametrize("build", [grants.form, grants.put])
def test_a_key_adds_no_markup_to_a_page(build: object) -> None:
    assert callable(build)
    hostile = ParsedPage(build(BREAKING_OUT))
    assert hostile.tags == ParsedPage(build("a")).tags
    assert BREAKING_OUT in hostile.text


def test_no_header_or_url_ends_the_script_of_a_page() -> None:
    hostile = grants.put(headers={"x-amz-meta-a": BREAKING_OUT}, url=URL + BREAKING_OUT)
    parsed = ParsedPage(hostile)
    assert parsed.tags == ParsedPage(grants.put()).tags
    assert render_javascript(hostile) in parsed.script
    assert "<" not in render_javascript(hostile)


@pytest.mark.parametrize("grant", [grants.grant(), grants.multipart()])
def test_a_grant_that_stores_no_object_has_no_page(grant: Grant) -> None:
    with pytest.raises(ValueError, match="only an upload or a put"):
        render_page(grant)


def test_the_text_of_a_form_lists_its_fields() -> None:
    lines = render_text(grants.form("a/b.png")).splitlines()
    assert lines[:2] == [f"POST {URL}", "  key     a/b.png"]
    assert "before 2026-11-24 12:00:00 UTC (limited by request)." in lines


def test_the_text_escapes_a_limit_that_only_a_later_service_has() -> None:
    text = render_text(replace(grants.grant(), limited_by="tier\x1b[2J"))
    assert "(limited by tier\\x1b[2J)" in text


def test_the_text_of_a_form_states_a_free_content_type() -> None:
    line = "  Content-Type  (the file's own, which begins with image/)"
    assert line in render_text(grants.form(type_prefix="image/")).splitlines()


def test_the_text_of_a_put_lists_its_headers() -> None:
    lines = render_text(grants.put()).splitlines()
    assert lines[:3] == [f"PUT {URL}", "  content-type    image/jpeg", "  content-length  5"]


def test_the_text_of_a_download_lists_its_headers() -> None:
    lines = render_text(grants.grant(headers={"x-amz-expected-bucket-owner": "1"})).splitlines()
    assert lines[1] == "  x-amz-expected-bucket-owner  1"
    assert "--html" not in lines[-1]
