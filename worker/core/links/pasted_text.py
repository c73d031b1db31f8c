"""Reads pasted text as names and values: URLs, HTML forms, JSON, headers, lines."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

Pairs = dict[str, set[str]]
"""The values of each name, in lower case."""

_NAMES = "|".join(
    (
        *("x-grant-id", "x-amz-meta-grant-id", "x-amz-signature", "x-amz-date", "x-amz-expires"),
        *("x-amz-credential", "uploadid", "partnumber"),
    )
)
# No pattern may go back: a pasted text is anybody's, and its length squared would be minutes.
_PAIR = re.compile(
    rf"""(?<![\w-])({_NAMES})(?:["']?[ \t]*+[:=][ \t]*+["']?)([^\s"'<>&,;()\\]++)""",
    re.IGNORECASE,
)
_KEY_LINE = re.compile(r"""(?im)^[ \t"']*+key[ \t]*+[:=][ \t]*+([^\r\n]++)""")
# A link may be a parameter of another one.
_URL = re.compile(r"""https?://(?:(?!https?://)[^\s"'<>`\\])+""", re.IGNORECASE)
_SIGNATURE = re.compile(r"x-amz-signature[\"']?\s*+[:=]\s*+[\"']?[0-9a-f]{64}", re.IGNORECASE)
_QUOTED_LINE = re.compile(r"(?<![ \t])[ \t]*+\r?\n[>| \t]*+")
_ENTITIES = {
    "&amp;": "&",
    "&#38;": "&",
    "&#x26;": "&",
    "&quot;": '"',
    "&#34;": '"',
    "&#39;": "'",
    "&lt;": "<",
    "&gt;": ">",
}
_MAX_DECODINGS = 2
# Names that only JSON has: a grant as the client prints it, and the metadata in a HEAD response.
_JSON_NAMES = {"id": "json-id", "grant-id": "x-amz-meta-grant-id", "key": "key", "method": "method"}
PATH = "path"
HOST = "host"


def read_pairs(text: str) -> Pairs:
    """Return what the text says of a grant. Raises ValueError for JSON that is too deep."""
    text = _QUOTED_LINE.sub("\n", text.strip().lstrip("\ufeff"))
    values = _load_json(text)
    pairs: Pairs = defaultdict(set)
    if values is not None:
        strings = list(_walk(values))
        for name, value in strings:
            if name in _JSON_NAMES or name.startswith("x-"):
                pairs[_JSON_NAMES.get(name, name)].add(value)
        text = "\n".join(value for _, value in strings if "://" in value)
    elif "<input" in text.lower():
        form = _Form()
        form.feed(text)
        return form.pairs
    _scan(_best_variant(text), pairs)
    return pairs


def _load_json(text: str) -> Any:
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
    except ValueError:
        return None  # such as several lines of JSON, which are read as text


def _walk(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the strings of a JSON value with their names in lower case."""
    if depth > 20:  # noqa: PLR2004 - far more than a grant or a response of storage has
        raise ValueError("too deep")
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _walk(each, key.lower(), depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _walk(each, name, depth + 1)
    elif isinstance(value, str):
        yield name, value


class _Form(HTMLParser):
    """The fields of an HTML form."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: Pairs = defaultdict(set)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "input" and values.get("name"):
            self.pairs[values["name"].lower()].add(values.get("value", ""))


def _best_variant(text: str) -> str:
    """Return the text, or if that has no signature, without line breaks or percent-encoding."""
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    variants = [text, _join_lines(text)]
    for _ in range(_MAX_DECODINGS):
        variants.append(unquote(variants[-1]))
    links = (each for each in variants if any(map(_is_signed_link, _URL.findall(each))))
    signed = (each for each in variants if _SIGNATURE.search(each))
    named = (each for each in variants if _PAIR.search(each))
    return next(links, None) or next(signed, None) or next(named, text)


def _is_signed_link(url: str) -> bool:
    return "?" in url and _SIGNATURE.search(url) is not None


def _join_lines(text: str) -> str:
    """Join the lines of a URL that was wrapped, up to the first line with a space."""
    start = re.search(r"https?://", text, re.IGNORECASE)
    if start is None:
        return text
    lines = text[start.start() :].split("\n")
    end = next((n for n, line in enumerate(lines) if not line or " " in line), len(lines))
    return "".join(lines[:end]) or lines[0]


def _scan(text: str, pairs: Pairs) -> None:
    for name, value in _PAIR.findall(text):
        pairs[name.lower()].add(unquote(value).rstrip(".,;:!?)>]}*`"))
    for value in _KEY_LINE.findall(text):
        pairs["key"].add(value.rstrip(" \t\"'"))
    for url in _URL.findall(text):
        parts = urlsplit(url)
        pairs["url"].add(parts.netloc.lower())
        if _is_signed_link(url):
            pairs[HOST].add(parts.netloc.lower())
            pairs[PATH].add(unquote(parts.path).removeprefix("/"))
