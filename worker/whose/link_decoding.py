"""Undoes what mails, chats and link scanners do to a link, in steps and within a bound."""

import quopri
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from html import unescape
from itertools import islice
from urllib.parse import unquote

MAX_TEXTS = 64
"""The most texts that `decodings` returns, so that a hostile text takes bounded time."""

# No pattern may go back: a pasted text is anybody's, and its length squared would be minutes.
_INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+")
_QUOTED_LINE = re.compile(r"(?<![ \t])[ \t]*+\r?\n[>| \t]*+")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_SLASHES = re.compile(r"(https?:)(?:/|%2F%2F)(?=[a-z0-9\[])", re.IGNORECASE)
_WORD = re.compile(r"""[^\s<>"'()\[\]|]++""")
_PROOFPOINT_2 = re.compile(
    r"https?://urldefense\.proofpoint\.com/v2/url\?u=([^\s<>\"'&]++)(?:&[^\s<>\"']*+)?",
    re.IGNORECASE,
)
_PROOFPOINT_3 = re.compile(r"https?://urldefense(?:\.proofpoint)?\.(?:com|us)/v3/__", re.IGNORECASE)
_REPLACED = re.compile(r"\*(?:\*([\w-]))?", re.ASCII)
_RUNS = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"  # of 2 characters and more
)
_SOFT_BREAK = re.compile(r"=[ \t]*+\r?\n")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_JSON_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}+(?:\r?\n[A-Za-z0-9+/_-]++)*+")
_NOT_BASE64 = re.compile("[^A-Za-z0-9+/]+")
_BASE64_OF_HTTP = "aHR0c"
_SPLIT_SIGNATURE = re.compile(
    r"\s*+".join("signature")
    + r"\s*+(?:=(?:\s*+3\s*+D)?|%[25\s]*+3\s*+D)(?:\s*+[0-9a-f]){64}(?![0-9a-f;])",
    re.IGNORECASE,
)


def decodings(text: str) -> Iterator[list[str]]:
    """Yield the text alone, then the texts after one more decoding each time, without repetitions.

    No text is longer than the first one.
    """
    level = [_clean(text)]
    known = set(level)
    while level:
        yield level
        following: list[str] = []
        for decode in _DECODERS:
            for each in level:
                decoded = decode(each)
                decoded = each if decoded == each else _clean(decoded)
                if decoded not in known and len(known) < MAX_TEXTS:
                    known.add(decoded)
                    following.append(decoded)
        level = following


def _clean(text: str) -> str:
    """Remove what no link or form contains: invisible characters, and marks of a quoted mail.

    Lone surrogates are replaced, because nothing can encode them.
    """
    text = without_invisible(text.encode(errors="replace").decode())
    return _SLASHES.sub(r"\1//", _QUOTED_LINE.sub("\n", text.strip()))


def without_invisible(text: str) -> str:
    """Remove characters without width, which programs insert to wrap or mark a text."""
    return _INVISIBLE.sub("", text)


def unescape_entities(text: str) -> str:
    """Replace entities that end with a semicolon. `&reg` of `&region=` is one without."""
    return _ENTITY.sub(lambda entity: unescape(entity[0]), text)


def _decode_proofpoint_2(text: str) -> str:
    return _PROOFPOINT_2.sub(lambda match: unquote(match[1].translate(_PROOFPOINT_2_CODES)), text)


_PROOFPOINT_2_CODES = str.maketrans("-_", "%/")


def _decode_proofpoint_3(text: str) -> str:
    return _WORD.sub(lambda match: _decode_proofpoint_3_link(match[0]), text)


def _decode_proofpoint_3_link(word: str) -> str:
    """Decode `.../v3/__LINK__;CHARACTERS!!...`, in which asterisks stand for the characters."""
    start = _PROOFPOINT_3.search(word)
    link, _, rest = word[start.end() :].rpartition("__;") if start else ("", "", "")
    if not (start and link):
        return word
    characters = iter(_decode_base64(rest.partition("!")[0]))

    def restore(match: re.Match[str]) -> str:
        count = 1 if match[1] is None else _RUNS.index(match[1]) + 2
        return "".join(islice(characters, count))

    return word[: start.start()] + _REPLACED.sub(restore, link)


def _decode_base64(text: str) -> str:
    code = _NOT_BASE64.sub("", text.replace("-", "+").replace("_", "/"))
    code = code[: len(code) - (len(code) % 4 == 1)]
    return b64decode(code + "=" * (-len(code) % 4)).decode(errors="replace")


def _decode_quoted_printable(text: str) -> str:
    joined = _SOFT_BREAK.sub("", text)
    if joined == text and "=3D" not in text:
        return text  # `=ab` of a link is no code
    return quopri.decodestring(joined.encode()).decode(errors="replace")


def _unescape_json(text: str) -> str:
    def unescape_one(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return _JSON_ESCAPES.get(match[2], match[2])

    return _ESCAPE.sub(unescape_one, text)


def _decode_base64_words(text: str) -> str:
    def decode(match: re.Match[str]) -> str:
        before, link, rest = match[0].partition(_BASE64_OF_HTTP)
        decoded = _decode_base64(link + rest if link else before)
        is_text = decoded.count("\N{REPLACEMENT CHARACTER}") * 8 < len(decoded)
        return (before if link else "") + decoded if is_text else match[0]

    return _BASE64.sub(decode, text)


def _join(text: str) -> str:
    """Remove white space, and mark the end of a signature, because another word may follow."""
    return "".join(_SPLIT_SIGNATURE.sub(r"\g<0>;", text).split())


_DECODERS: tuple[Callable[[str], str], ...] = (
    *(_decode_quoted_printable, unquote, unescape_entities, _unescape_json),
    *(_decode_base64_words, _join, _decode_proofpoint_2, _decode_proofpoint_3),
)
