"""The grammars of the response headers that a download may set."""

import re
from collections.abc import Callable, Mapping
from email.utils import format_datetime, parsedate_to_datetime
from typing import NamedTuple

CONTENT_ENCODINGS = ("br", "deflate", "gzip", "identity", "zstd")
"""The codings that browsers decode, and that of unchanged content."""

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - RFC 9110, section 5.6.2, not a secret
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_DIRECTIVE = rf"{_TOKEN}(?:=(?:{_TOKEN}|{_QUOTED}))?"
_LANGUAGE = r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*"  # RFC 5646, section 2.1: the shape of a tag


def _list_of(element: str) -> Callable[[str], object]:
    return re.compile(rf"{element}(?: ?, ?{element})*").fullmatch


def is_http_date(text: str) -> bool:
    """Return true for a date that exists, in the one form that senders use (IMF-fixdate).

    Source: RFC 9110, section 5.6.7.
    """
    try:
        return format_datetime(parsedate_to_datetime(text), usegmt=True) == text
    except (ValueError, OverflowError):
        return False


class HeaderGrammar(NamedTuple):
    """The check of a header's value; a description of valid values, and those known by name."""

    is_valid: Callable[[str], object]
    description: str
    values: tuple[str, ...] = ()


GRAMMARS: Mapping[str, HeaderGrammar] = {
    "cache_control": HeaderGrammar(
        _list_of(_DIRECTIVE), "directives, separated by commas, like private, max-age=3600"
    ),
    "content_language": HeaderGrammar(
        _list_of(_LANGUAGE), "language tags, separated by commas, like de or en-GB"
    ),
    "content_encoding": HeaderGrammar(
        _list_of(f"(?:{'|'.join(CONTENT_ENCODINGS)})"),
        "content codings in lower case, separated by commas",
        CONTENT_ENCODINGS,
    ),
    "expires": HeaderGrammar(
        is_http_date, "an HTTP date that exists, like Tue, 01 Dec 2026 16:00:00 GMT"
    ),
}
"""The grammars by the names of the terms."""
