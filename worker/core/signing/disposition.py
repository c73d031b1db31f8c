"""Builds Content-Disposition headers.

A name travels exactly in `filename*` (RFC 8187), which browsers read, and as a safe ASCII name in
`filename`, which curl reads. docs/files.md shows what clients make of both.
"""

import re
import unicodedata
from functools import lru_cache
from urllib.parse import quote

from worker.core.signing.filenames import is_device, is_plain

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
    fallback = filename if is_plain(filename) else make_fallback(filename)
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
    if is_device(stem):
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
