"""Which redirects a policy allows, compared with where browsers go."""

import json
import subprocess
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.s3 import chromium
from tests.support.scope import skip_without
from worker.rules.redirects import is_allowed_redirect, parse_redirect_prefix

_SCRIPT = """
const parsed = JSON.parse(require("fs").readFileSync(0)).map(text => {
  try {
    const url = new URL(text, "https://bucket.s3.example/upload")
    return [url.origin, url.pathname, url.username + url.password, url.hash]
  } catch { return null }
})
process.stdout.write(JSON.stringify(parsed))
"""


class BrowserUrl(NamedTuple):
    """The parts of a URL after a browser has parsed it."""

    origin: str
    path: str
    user: str
    fragment: str


def parse_as_browsers(node: str, urls: Sequence[str]) -> list[BrowserUrl | None]:
    """Return the parts of each URL, or None for one that a browser cannot open."""
    result = subprocess.run(
        [node, "-e", _SCRIPT], input=json.dumps(urls).encode(), capture_output=True, check=True
    )
    return [None if parts is None else BrowserUrl(*parts) for parts in json.loads(result.stdout)]


DONE = "https://app.example.com/done"
FOLDER = "https://app.example.com/done/"
PORT = "https://app.example.com:8443/"
ADDRESS = "https://192.0.2.1/"
PUNYCODE = "https://xn--mnchen-3ya.example/"

ALLOWED = [
    (DONE, DONE),
    (DONE, f"{DONE}/"),
    (DONE, f"{DONE}/2026/a.b..c/~ü".replace("ü", "%C3%BC")),
    (DONE, f"{DONE}?order=7&next=/x/../y"),
    (DONE, "HTTPS://App.Example.COM/done"),
    (DONE, "https://app.example.com:443/done"),
    (FOLDER, FOLDER),
    (FOLDER, f"{FOLDER}x;v=1"),
    ("https://app.example.com/", "https://app.example.com"),
    ("https://app.example.com", "https://app.example.com/anything"),
    ("https://app.example.com:443/", "https://app.example.com/"),
    (PORT, "https://app.example.com:8443/done"),
    (ADDRESS, "https://192.0.2.1/done"),
    (PUNYCODE, "https://XN--MNCHEN-3YA.example/done"),
]
REFUSED = [
    (DONE, f"{DONE}2"),
    (DONE, f"{DONE}/../admin"),
    (DONE, f"{DONE}/./x"),
    (DONE, f"{DONE}/%2e%2e/admin"),
    (DONE, f"{DONE}/.%2E/admin"),
    (DONE, f"{DONE}/%25252e%25252e/admin"),
    (DONE, f"{DONE}%2f..%2fadmin"),
    (DONE, f"{DONE}/x%5c..%5c..%5cadmin"),
    (DONE, f"{DONE}/..;/admin"),
    (DONE, f"{DONE}/%c0%ae%c0%ae/admin"),
    (DONE, f"{DONE}/%EF%BC%8E%EF%BC%8E/admin"),
    (DONE, f"{DONE}/%00"),
    (DONE, f"{DONE}/%E2%80%AEx"),
    (DONE, f"{DONE}//evil.com"),
    (DONE, f"{DONE}//"),
    (DONE, "https://app.example.com//done"),
    (DONE, f"{DONE}/%zz"),
    (DONE, f"{DONE}/ü"),
    (DONE, f"{DONE}/a\\..\\..\\admin"),
    (DONE, f"{DONE}#/admin"),
    (DONE, f"{DONE}?${{filename}}"),
    (DONE, f"{DONE}/${{filename}}"),
    (DONE, "https://app.example.com/Done"),
    (DONE, "https://app.example.com/d%6fne"),
    (DONE, "https://app.example.com"),
    (FOLDER, DONE),
    (DONE, "https://app.example.com.evil.com/done"),
    (DONE, "https://app.example.com@evil.com/done"),
    (DONE, "https://user@app.example.com/done"),
    (DONE, "https://app.example.com\\@evil.com/done"),
    (DONE, "https://app.example.com:8443/done"),
    (DONE, "https://app.example.com:/done"),
    (DONE, "https://app.example.com:0443/done"),
    (DONE, "https://\uff41pp.example.com/done"),
    (DONE, "http://app.example.com/done"),
    (DONE, "//app.example.com/done"),
    (DONE, "https:/app.example.com/done"),
    (DONE, "javascript:alert(1)//app.example.com/done"),
    (DONE, f"{DONE}\n"),
    (PORT, "https://app.example.com/done"),
    (PORT, "https://app.example.com:84430/done"),
    (PUNYCODE, "https://münchen.example/done"),
    ("https://127.0.0.1/", "https://0x7f.1/"),
    ("https://[::1]/", "https://[::1]/"),
    # Policies that no redirect can match.
    (f"{DONE}/../", "https://app.example.com/"),
    (f"{DONE}?x=", f"{DONE}?x=1"),
]
INVALID_PREFIXES = [
    *(url for _, url in REFUSED if url.startswith((f"{DONE}/", f"{DONE}?", f"{DONE}#"))),
    f"{DONE}?x=1",
    "https://user@app.example.com/",
    "https://app.example.com:65536/",
    "https://0x7f.1/",
    "https://127.1/",
    "https://a.0x/",
    "https://münchen.example/",
    "http://app.example.com/",
]
PIECES = st.sampled_from(
    [
        *("https", "http", ":", "/", "//", "\\", "?", "#", "@", ".", "..", ";", ":443", ":8443"),
        *("%2e", "%2E%2e", "%252e", "%2f", "%5c", "%00", "%c0%ae", "%EF%BC%8E", "%09", "\t", "\n"),
        *("app.example.com", "APP.example.com", "evil.com", "done", "done/", "Done", "admin", "x"),
        *("。", "\uff0e", "\uff41pp", "ü", " ", "0x7f", "127.0.0.1", "xn--", "[::1]", "user"),
        "${filename}",
    ]
)
LOOKALIKES = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=6).map(lambda pieces: FOLDER + "".join(pieces)),
    st.lists(PIECES, max_size=6).map(lambda pieces: "https://app.example.com" + "".join(pieces)),
    st.text(max_size=20).map(FOLDER.__add__),
)


@pytest.fixture(scope="module")
def node() -> str:
    node_path = chromium.node()
    if node_path is None:
        skip_without("redirects, compared with Node.js", "make browser")
    return node_path


@pytest.mark.parametrize(("prefix", "url"), ALLOWED)
def test_a_redirect_to_a_page_of_the_policy_or_below_it_is_allowed(prefix: str, url: str) -> None:
    assert is_allowed_redirect(url, ["https://other.example/", prefix])


@pytest.mark.parametrize(("prefix", "url"), REFUSED)
def test_a_redirect_that_can_lead_elsewhere_is_refused(prefix: str, url: str) -> None:
    assert not is_allowed_redirect(url, [prefix])


@pytest.mark.parametrize("url", INVALID_PREFIXES)
def test_a_redirect_that_no_request_can_match_is_no_policy(url: str) -> None:
    assert parse_redirect_prefix(url) is None


@pytest.mark.parametrize(
    "url", [DONE, FOLDER, PORT, ADDRESS, PUNYCODE, "https://app.example.com", "https://localhost/"]
)
def test_a_host_with_a_path_is_a_policy(url: str) -> None:
    assert parse_redirect_prefix(url) is not None


@settings(deadline=None, max_examples=20)
@given(batch=st.lists(LOOKALIKES, min_size=100, max_size=400))
def test_a_browser_goes_below_the_page_of_the_policy_with_every_redirect_that_is_allowed(
    node: str, batch: list[str]
) -> None:
    urls = [url for url in batch if is_allowed_redirect(url, [DONE])]
    for url, parsed in zip(urls, parse_as_browsers(node, urls), strict=True):
        assert parsed is not None, url
        assert (parsed.origin, parsed.user, parsed.fragment) == ("https://app.example.com", "", "")
        assert f"{parsed.path}/".startswith("/done/"), url
        decoded = parsed.path
        while (once_more := unquote(decoded)) != decoded:
            decoded = once_more
        assert ".." not in decoded.replace("\\", "/").split("/"), url


@pytest.mark.parametrize(("prefix", "url"), ALLOWED)
def test_a_browser_opens_the_redirects_that_are_allowed(node: str, prefix: str, url: str) -> None:
    page, target = parse_as_browsers(node, [prefix, url])
    assert page is not None
    assert target is not None
    assert target.origin == page.origin
    assert f"{target.path}/".startswith(page.path)
