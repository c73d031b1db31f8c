"""Which URLs may be a webhook endpoint.

Only form is judged here. Where a name leads is known when it has been resolved, and is judged then,
at every attempt (`worker.core.addresses`).
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import idna

MAX_URL_LENGTH = 2048
ALLOWED_PORTS = (443, 8443)

_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?=[a-z]){_LABEL}")


class UrlRule(StrEnum):
    """The rule that a refused webhook URL breaks."""

    LENGTH = "url_too_long"
    CHARACTERS = "whitespace_control_or_backslash"
    SCHEME = "scheme_not_https"
    USERINFO = "userinfo_not_allowed"
    FRAGMENT = "fragment_not_allowed"
    HOST = "host_not_a_dns_name"
    PORT = "port_not_allowed"


@dataclass(frozen=True, slots=True)
class WebhookUrl:
    """An accepted webhook URL, in the parts that sending needs: `target` is its path and query."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)  # it may carry the receiver's own token

    @property
    def authority(self) -> str:
        """The value of the Host header: without the port where the scheme implies it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


def broken_rule(url: str, *, development: bool = False) -> UrlRule | None:
    """The rule that forbids this webhook URL, or None when it is acceptable.

    Development also accepts http, IP addresses, names without a dot, and any port.
    """
    read = parse_webhook_url(url, development=development)
    return read if isinstance(read, UrlRule) else None


def parse_webhook_url(url: str, *, development: bool = False) -> WebhookUrl | UrlRule:
    """Read a webhook URL once, for judging and for sending: two parsers would be two opinions."""
    # urlsplit drops tabs and newlines silently, and others read a backslash as a slash.
    if len(url) > MAX_URL_LENGTH:
        return UrlRule.LENGTH
    if not url.isprintable() or any(character in url for character in " \\"):
        return UrlRule.CHARACTERS
    try:
        parts = urlsplit(url)
    except ValueError:
        return UrlRule.HOST
    broken = _broken_rule(parts, url, development=development)
    return broken or _endpoint(parts, development=development)


def _broken_rule(parts: SplitResult, url: str, *, development: bool) -> UrlRule | None:
    if parts.scheme != "https" and not (development and parts.scheme == "http"):
        return UrlRule.SCHEME
    if "@" in parts.netloc:
        return UrlRule.USERINFO
    return UrlRule.FRAGMENT if "#" in url else None


def _endpoint(parts: SplitResult, *, development: bool) -> WebhookUrl | UrlRule:
    host = _ascii_host(parts.hostname or "", development=development)
    # Brackets belong to IPv6 and to nothing else; urlsplit also takes them around names.
    if host is None or ("[" in parts.netloc) != (":" in host):
        return UrlRule.HOST
    try:
        port = _default_port(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return UrlRule.PORT
    if port not in ALLOWED_PORTS and not development:
        return UrlRule.PORT
    query = f"?{parts.query}" if parts.query else ""
    return WebhookUrl(parts.scheme, host, port, f"{parts.path or '/'}{query}")


def _ascii_host(host: str, *, development: bool) -> str | None:
    """The host as it goes to DNS, TLS and HTTP, or None when it is no DNS name.

    A last label that starts with a digit is refused: resolvers read `127.1`, `0x7f.1` and
    `2130706433` as addresses (WHATWG URL, "ends in a number"). A name without a dot is left to the
    search list of whoever resolves it, and a trailing dot is not the name in the certificate.
    """
    if development and _is_address(host):
        return host
    try:
        name = host if host.isascii() else idna.encode(host).decode("ascii")
    except idna.IDNAError:
        return None
    return name if _NAME.fullmatch(name) and (development or "." in name) else None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
