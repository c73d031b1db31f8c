"""Rules of file names that a download may have, so that clients save it under exactly this name."""

import re
import unicodedata
from urllib.parse import unquote

MAX_FILENAME_BYTES = 236
"""The longest name, in UTF-8. File systems hold 255 bytes, but Chromium fails with 246, and wget
cuts an ASCII name to 236 bytes, which would take its extension away."""
TOO_LONG = f"a filename has at most {MAX_FILENAME_BYTES} bytes in UTF-8"

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
_PLAIN = re.compile("[A-Za-z0-9]+(?:[ ._-][A-Za-z0-9]+)*").fullmatch
_DEVICE = re.compile(
    r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9]) *(\..*)?", re.ASCII | re.IGNORECASE
).fullmatch


def is_plain(name: str) -> bool:
    """Return True for most ASCII names without faults. They need no fallback, and no more time."""
    return _PLAIN(name) is not None and len(name) <= MAX_FILENAME_BYTES and not is_device(name)


def find_filename_fault(name: str) -> str | None:
    """Return the rule that a filename breaks, or None if every file system can hold it."""
    if is_plain(name):
        return None
    return next((text for is_broken, text in _RULES if is_broken(name)), None)


def is_device(name: str) -> bool:
    """Return True for a name that Windows takes for a device, with any extension."""
    return _DEVICE(name) is not None


def _is_too_long(name: str) -> bool:
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
_RULES = (
    (lambda name: not name, "a filename is not empty"),
    (_is_too_long, TOO_LONG),
    (
        lambda name: not _RESERVED.isdisjoint(name),
        'a filename has none of the characters / \\ " : * ? < > |',
    ),
    (
        _has_hidden_characters,
        "a filename has no control, invisible or directional characters",
    ),
    (
        _is_trimmed,
        "a filename begins with no dot, ~ or space, and ends with no dot or space",
    ),
    (lambda name: is_device(_compatible(name)), "a filename is not the name of a Windows device"),
    (
        _looks_like_a_path,
        "a filename is no path, not even one of characters that look like dots and slashes",
    ),
    (
        _decodes_to_a_fault,
        "a filename has no percent escapes of characters that a filename does not have",
    ),
)
