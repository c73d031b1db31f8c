"""The response headers that a download may set, and the file names in them.

A name travels exactly in `filename*` (RFC 8187), which browsers read, and as a safe ASCII name in
`filename`, which curl reads. docs/appendix/file-names.md shows what clients make of both.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

MAX_FILENAME_BYTES = 236
"""The longest name, in UTF-8. File systems hold 255 bytes, but Chromium fails with 246, and wget
cuts an ASCII name to 236 bytes, which would remove its extension."""
FILENAME_TOO_LONG = f"a filename has at most {MAX_FILENAME_BYTES} bytes in UTF-8"

_RESERVED = frozenset('/\\":*?<>|')  # separators, and what Windows forbids
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Persian, the scripts of India and emoji need these, but only between two visible characters.
_JOINERS = frozenset("\u200c\u200d")
# Programs that fit a name to another character set turn these into slashes, as they do with what
# is a slash after NFKC.
_SLASHES = str.maketrans(dict.fromkeys("\u2044\u2215\u2216\u29f5\u29f8\u29f9\\", "/"))
_NONCHARACTERS = frozenset(
    [
        *map(chr, range(0xFDD0, 0xFDF0)),
        *(chr(plane + end) for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF)),
    ]
)
_PLAIN_NAME = re.compile("[A-Za-z0-9]+(?:[ ._-][A-Za-z0-9]+)*").fullmatch
_DEVICE = re.compile(
    r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9]) *(\..*)?", re.ASCII | re.IGNORECASE
).fullmatch


def is_plain_filename(name: str) -> bool:
    """Return True for most ASCII names without faults. They need no fallback, and no more time."""
    return (
        _PLAIN_NAME(name) is not None
        and len(name) <= MAX_FILENAME_BYTES
        and not is_device_name(name)
    )


def find_filename_fault(name: str) -> str | None:
    """Return the rule that a filename breaks, or None if every file system can hold it."""
    if is_plain_filename(name):
        return None
    return next((text for is_broken, text in _FILENAME_RULES if is_broken(name)), None)


def is_device_name(name: str) -> bool:
    """Return True for a name that Windows takes for a device, with any extension."""
    return _DEVICE(name) is not None


def _is_name_too_long(name: str) -> bool:
    return len(name.encode("utf-8", "surrogatepass")) > MAX_FILENAME_BYTES


def _has_hidden_characters(name: str) -> bool:
    if _HIDDEN.isdisjoint(map(unicodedata.category, name)) and _NONCHARACTERS.isdisjoint(name):
        return False  # else a joiner, or a fault
    return any(map(_is_hidden, name, f" {name}", f"{name[1:]} "))


def _is_hidden(character: str, before: str, after: str) -> bool:
    if character in _JOINERS:
        return not (_joins(before) and _joins(after))
    return character in _NONCHARACTERS or unicodedata.category(character) in _HIDDEN


def _joins(character: str) -> bool:
    """Return True for a letter, mark or symbol outside of ASCII."""
    return not character.isascii() and unicodedata.category(character)[0] in "LMS"


def _is_trimmed(name: str) -> bool:
    return name != name.strip() or name[0] in ".~" or name[-1] == "."


def _looks_like_a_path(name: str) -> bool:
    return not {".", ".."}.isdisjoint(_compatible(name).split("/"))


def _decodes_to_a_fault(name: str) -> bool:
    """Return True if wget, which decodes percent escapes in a name, would save under a bad one."""
    decoded = unquote(name, errors="surrogateescape") if "%" in name else name
    return decoded != name and find_filename_fault(decoded) is not None


def _compatible(name: str) -> str:
    if name.isascii():
        return name
    return unicodedata.normalize("NFKC", name).translate(_SLASHES)


# In this order: each rule may expect that the ones before it hold.
_FILENAME_RULES = (
    (lambda name: not name, "a filename is not empty"),
    (_is_name_too_long, FILENAME_TOO_LONG),
    (
        lambda name: not _RESERVED.isdisjoint(name),
        'a filename has none of the characters / \\ " : * ? < > |',
    ),
    (_has_hidden_characters, "a filename has no control, invisible or directional characters"),
    (_is_trimmed, "a filename begins with no dot, ~ or space, and ends with no dot or space"),
    (
        lambda name: is_device_name(_compatible(name)),
        "a filename is not the name of a Windows device",
    ),
    (
        _looks_like_a_path,
        "a filename is no path, not even one of characters that look like dots and slashes",
    ),
    (
        _decodes_to_a_fault,
        "a filename has no percent escapes of characters that a filename does not have",
    ),
)


_MAX_FALLBACK_LENGTH = 255
_ATTR_CHAR = "!#$&+-.^_`|~"  # RFC 8187 section 3.2.1, beside a-z, A-Z and 0-9
# Some clients decode percent signs, or split a header at quotes, commas and semicolons inside of a
# quoted string (RFC 6266, appendix D), so none of them is in a fallback.
_UNSAFE = re.compile(r"[^A-Za-z0-9 ()+.@_-]")
_REPLACED = "\0"
_REPLACED_RUN = re.compile(f"{_REPLACED}+")
_HAS_LETTER = re.compile("[A-Za-z0-9]").search
_DROPPED = frozenset({"Cf", "Me", "Mn"})


def content_disposition(filename: str | None, *, inline: bool = False) -> str:
    """Return a Content-Disposition for a filename without faults (RFC 6266, RFC 8187).

    A browser saves the object, or shows it if inline.
    """
    kind = "inline" if inline else "attachment"
    if filename is None:
        return kind
    fallback = filename if is_plain_filename(filename) else make_fallback(filename)
    if fallback == filename:
        return f'{kind}; filename="{filename}"'
    encoded = quote(filename, safe=_ATTR_CHAR)
    return f"{kind}; filename=\"{fallback}\"; filename*=UTF-8''{encoded}"


def make_fallback(name: str) -> str:
    """Return a safe ASCII name for clients that do not read filename*.

    An extension is kept or replaced, never folded: fullwidth `exe` must not become `exe`.
    """
    stem, dot, extension = name.rpartition(".")
    if not dot:
        stem, extension = name, ""
    stem = _REPLACED_RUN.sub("_", "".join(map(_fold, stem))).rstrip(" .").lstrip(" .-")
    extension = _UNSAFE.sub("_", extension)
    if not _HAS_LETTER(stem):
        stem = "download"
    if is_device_name(stem):
        stem = f"_{stem}"
    return f"{stem[: _MAX_FALLBACK_LENGTH - len(dot) - len(extension)]}{dot}{extension}"


@lru_cache(2_048)
def _fold(character: str) -> str:
    """Fold a character to safe ones in ASCII and _REPLACED, or to nothing if it is an accent."""
    if character.isascii():
        return _UNSAFE.sub(_REPLACED, character)
    return "".join(
        part if part == " " or (part.isascii() and part.isalnum()) else _REPLACED
        for part in unicodedata.normalize("NFKD", character)
        if unicodedata.category(part) not in _DROPPED
    )


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
