"""Checks the redirects of forms.

A redirect is read as browsers read it (WHATWG, URL Standard), but only in a spelling that browsers,
proxies and servers cannot read in different ways. Others are refused, even if they are harmless.
"""

import re
import unicodedata
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address
from typing import NamedTuple

from valetkey.signing.object_keys import decode_percent

_DEFAULT_PORT = 443
_MAX_PORT = 65_535
# RFC 3986: unreserved characters, sub-delims, ":" and "@", and percent-encoded bytes. A form's
# ${filename}, which storage would replace, has others.
_PATH_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_match_redirect = re.compile(
    r"https://(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::(?P<port>[1-9][0-9]{0,4}))?"
    rf"(?P<path>(?:/{_PATH_CHARACTER}*)*)(?P<query>\?(?:{_PATH_CHARACTER}|[/?])*)?",
    re.IGNORECASE | re.ASCII,
).fullmatch
_is_number = re.compile("[0-9]+|0x[0-9a-f]*").fullmatch
_CONTROL_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp"})


class Redirect(NamedTuple):
    """The parts of a redirect that decide where a browser goes, normalized."""

    host: str
    port: int
    path: str
    query: str

    def permits(self, redirect: "Redirect") -> bool:
        """Return true if a redirect has this origin, and this path or one below it."""
        if (redirect.host, redirect.port) != (self.host, self.port):
            return False
        folder = self.path if self.path.endswith("/") else f"{self.path}/"
        return redirect.path == self.path or redirect.path.startswith(folder)


def parse_redirect(url: str) -> Redirect | None:
    """Return the parts of a redirect, or None if it is not an unambiguous https:// URL."""
    match = _match_redirect(url)
    if match is None:
        return None
    host, port, path = match["host"].lower(), int(match["port"] or _DEFAULT_PORT), match["path"]
    if not _is_canonical(host) or port > _MAX_PORT or not _is_plain_path(path):
        return None
    return Redirect(host, port, path or "/", match["query"] or "")


def parse_redirect_prefix(url: str) -> Redirect | None:
    """Return the parts of a policy's redirect, or None if no redirect can match it.

    Its path is the page or the folder that it allows, so it has no query.
    """
    prefix = parse_redirect(url)
    return None if prefix is None or prefix.query else prefix


def is_allowed_redirect(url: str, prefixes: Iterable[str]) -> bool:
    """Return true if one of a policy's redirects permits this one."""
    redirect = parse_redirect(url)
    if redirect is None:
        return False
    parsed = (parse_redirect_prefix(prefix) for prefix in prefixes)
    return any(prefix is not None and prefix.permits(redirect) for prefix in parsed)


def _is_canonical(host: str) -> bool:
    """Refuse the other spellings of an IPv4 address, as browsers read 0x7f.1 as 127.0.0.1."""
    if not _is_number(host.rpartition(".")[2]):
        return True
    try:
        return str(IPv4Address(host)) == host
    except AddressValueError:
        return False


def _is_plain_path(path: str) -> bool:
    """Refuse paths that a browser, or a server after any number of decodings, reads as another."""
    decoded = decode_percent(path)
    if "\ufffd" in decoded or {unicodedata.category(c) for c in decoded} & _CONTROL_CATEGORIES:
        return False
    # Some servers take a backslash for a slash, fold wide dots, and ignore what follows a ";".
    folded = unicodedata.normalize("NFKC", decoded).replace("\\", "/")
    names = [segment.partition(";")[0] for segment in folded.split("/")]
    return not {".", ".."}.intersection(names) and "" not in names[1:-1]
