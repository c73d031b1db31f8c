import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import grants
from tests.support.builders.grants import BREAKING_OUT, URL
from valetkey.cli.snippets import render_page, render_text
from valetkey.cli.terminal_text import escape_unprintable
from valetkey.wire.replies import Grant

printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class ParsedPage(HTMLParser):
    """A parsed page: its inputs in order, its security policy, its data and its text."""

    def __init__(self, grant: Grant) -> None:
        super().__init__()
        self.inputs: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.policy: dict[str, list[str]] = {}
        self.text = ""
        self.data = ""
        self.html = render_page(grant)
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.text += " "
        if tag == "input":
            self.inputs.append(values)
        if values.get("http-equiv") == "Content-Security-Policy":
            directives = [line.split() for line in (values["content"] or "").split(";")]
            self.policy = {name: sources for name, *sources in directives}

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.data = self.data or data  # the data precedes the script
        elif self.cdata_elem is None:
            self.text += data


@given(printable)
def test_a_page_has_a_form_with_every_field_unchanged_and_the_file_last(key: str) -> None:
    grant = grants.form(key, acl=key)
    *hidden, file = ParsedPage(grant).inputs
    assert {field["name"]: field["value"] for field in hidden} == grant.fields
    assert {field["type"] for field in hidden} == {"hidden"}
    assert (file["type"], file["name"]) == ("file", "file")


def test_a_form_with_a_free_content_type_has_a_field_for_it_before_the_file() -> None:
    content_type, file = ParsedPage(grants.form(type_prefix="image/")).inputs[-2:]
    assert (content_type["name"], content_type["value"]) == ("Content-Type", "image/")
    assert (file["name"], file["accept"]) == ("file", "image/*")


def test_a_page_states_the_limits_before_a_file_is_chosen() -> None:
    words = " ".join(ParsedPage(grants.put(size=5)).text.split())
    assert "Size Exactly 5 bytes Type image/jpeg Works until 2026-11-24 12:00:00 UTC" in words


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((0, 5_000_000), "Up to 4.8 MiB (5,000,000 bytes)"),
        ((2 * 1024, 1024**3), "2 KiB (2,048 bytes) to 1 GiB (1,073,741,824 bytes)"),
    ],
)
def test_a_page_states_sizes_in_words(limits: tuple[int, int], words: str) -> None:
    conditions = [["content-length-range", *limits]]
    policy = b64encode(json.dumps({"conditions": conditions}).encode()).decode()
    grant = replace(grants.form(), fields={"key": "a", "policy": policy})
    assert words in ParsedPage(grant).text


@pytest.mark.parametrize("build", [grants.form, grants.put])
def test_a_key_adds_no_markup_to_a_page(build: object) -> None:
    assert callable(build)
    hostile = ParsedPage(build(BREAKING_OUT))
    assert hostile.tags == ParsedPage(build("a")).tags
    assert escape_unprintable(BREAKING_OUT) in hostile.text


def test_no_header_or_url_ends_the_data_of_a_page() -> None:
    hostile = grants.put(headers={"x-amz-meta-a": BREAKING_OUT}, url=URL + BREAKING_OUT)
    parsed = ParsedPage(hostile)
    assert parsed.tags == ParsedPage(grants.put()).tags
    assert json.loads(parsed.data)["headers"] == [["x-amz-meta-a", BREAKING_OUT]]
    assert "<" not in parsed.data


def test_a_page_runs_its_own_script_and_reaches_storage_alone() -> None:
    parsed = ParsedPage(grants.form())
    (script,) = SCRIPT.findall(parsed.html)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    storage = ["https://inbox.example.test"]
    assert parsed.policy.pop("style-src")[0].startswith("'sha256-")
    assert parsed.policy == {
        "default-src": ["'none'"],
        "script-src": [f"'sha256-{digest}'"],
        "connect-src": storage,
        "frame-src": storage,
        "form-action": storage,
        "base-uri": ["'none'"],
    }


def test_a_page_may_be_redirected_by_storage_where_its_grant_says() -> None:
    grant = grants.form(success_action_redirect="https://app.example/done")
    targets = ParsedPage(grant).policy["form-action"]
    assert targets == ["https://inbox.example.test", "https://app.example"]


@pytest.mark.parametrize("url", ["http://[::1]:8333/b", "http://a;script-src *:1/b"])
def test_a_host_that_a_security_policy_cannot_name_adds_nothing_to_it(url: str) -> None:
    policy = ParsedPage(grants.form(url=url)).policy
    assert (policy["connect-src"], len(policy)) == (["http:"], 7)


@pytest.mark.parametrize("grant", [grants.grant(), grants.multipart()])
def test_a_grant_that_stores_no_object_has_no_page(grant: Grant) -> None:
    with pytest.raises(ValueError, match="only an upload or a put"):
        render_page(grant)


@pytest.mark.parametrize(
    ("grant", "lines"),
    [
        (grants.form("a/b.png"), [f"POST {URL}", "  key     a/b.png"]),
        (grants.form("a/b.png"), ["before 2026-11-24 12:00:00 UTC (limited by request)."]),
        (grants.form(type_prefix="a/"), ["  Content-Type  (the file's own, which begins with a/)"]),
        (grants.put(), [f"PUT {URL}", "  content-type    image/jpeg", "  content-length  5"]),
        (grants.grant(headers={"x-amz-acl": "private"}), ["  x-amz-acl  private"]),
    ],
)
def test_the_text_of_a_grant_has_its_request_and_its_end(grant: Grant, lines: list[str]) -> None:
    assert set(lines) <= set(render_text(grant).splitlines())


def test_the_text_escapes_a_limit_that_only_a_later_service_has() -> None:
    text = render_text(replace(grants.grant(), limited_by="tier\x1b[2J"))
    assert "(limited by tier\\x1b[2J)" in text


def test_the_text_of_a_download_names_no_page() -> None:
    assert "--html" not in render_text(grants.grant())
