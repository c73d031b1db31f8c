import shlex
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from valetkey.forms import curl_line, html_page, readable
from valetkey.messages import Grant

URL = "https://inbox.example.test/?a=1&b=[2]"
ODD = """it's "50%"; a=b,<x>@&amp;ü$(id)`id`\\${filename}"""
printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)


def grant(key: str) -> Grant:
    return Grant(
        id="0199.0",
        key=key,
        method="POST",
        url=URL,
        fields={
            "key": key,
            "Content-Type": "image/png",
            "x-amz-meta-a": f"@{key}",
            "policy": "e30=",
        },
        expires_at=datetime(2026, 11, 24, 12, tzinfo=UTC),
        limited_by="request",
    )


class Form(HTMLParser):
    """What a browser would make of a page: one form, and its inputs in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.form: dict[str, str | None] = {}
        self.inputs: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "form":
            self.form = dict(attrs)
        if tag == "input":
            self.inputs.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(printable)
def test_a_curl_line_sends_every_field_as_it_is_and_the_file_last(key: str) -> None:
    words = shlex.split(curl_line(grant(key), "cat.jpg"))
    strings = [words[i + 1] for i, word in enumerate(words) if word == "--form-string"]
    assert strings == [f"{name}={value}" for name, value in grant(key).fields.items()]
    assert words[-4:] == ["--form", 'file=@"cat.jpg"', "--url", URL]


def test_a_curl_line_is_one_line() -> None:
    assert "\n" not in curl_line(grant(ODD), "cat.jpg")


@pytest.mark.parametrize(
    ("path", "quoted"),
    [("a;b,c.txt", 'file=@"a;b,c.txt"'), ('a"b\\c', 'file=@"a\\"b\\\\c"')],
)
def test_a_path_that_is_special_to_curl_is_quoted_for_it(path: str, quoted: str) -> None:
    assert quoted in shlex.split(curl_line(grant("a"), path))


@given(printable)
def test_a_page_has_a_form_with_every_field_as_it_is_and_the_file_last(key: str) -> None:
    page = Form(html_page(grant(key)))
    *hidden, file = page.inputs
    assert {field["name"]: field["value"] for field in hidden} == grant(key).fields
    assert {field["type"] for field in hidden} == {"hidden"}
    assert (file["type"], file["name"]) == ("file", "file")


def test_a_page_posts_its_form_as_storage_wants_it() -> None:
    assert Form(html_page(grant("a"))).form == {
        "action": URL,
        "method": "post",
        "enctype": "multipart/form-data",
        "accept-charset": "utf-8",
    }


def test_a_key_adds_no_markup_to_a_page() -> None:
    hostile = Form(html_page(grant("\"><script>alert(1)</script>&lt;'")))
    assert hostile.tags == Form(html_page(grant("a"))).tags
    assert "<script>alert(1)</script>&lt;'" in hostile.text


def test_a_form_is_readable_field_by_field() -> None:
    lines = readable(grant("a/b.png")).splitlines()
    assert lines[:3] == [f"POST {URL}", "  key           a/b.png", "  Content-Type  image/png"]
    assert "before 2026-11-24 12:00:00 UTC (limited by request)." in lines
