"""Checks the form of the URLs of webhooks.

The client checks the addresses that a URL's host resolves to, at every attempt.
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


class UrlViolation(StrEnum):
    """A reason why a webhook URL is refused. The values are stable codes."""

    LENGTH = "url_too_long"
    CHARACTERS = "whitespace_control_or_backslash"
    SCHEME = "scheme_not_https"
    USERINFO = "userinfo_not_allowed"
    FRAGMENT = "fragment_not_allowed"
    HOST = "host_not_a_dns_name"
    PORT = "port_not_allowed"


VIOLATION_TEXTS = {
    UrlViolation.LENGTH: f"write a URL of at most {MAX_URL_LENGTH:,} characters",
    UrlViolation.CHARACTERS: (
        "remove spaces, control characters and backslashes, or percent-encode them"
    ),
    UrlViolation.SCHEME: "write https://",
    UrlViolation.USERINFO: "remove the user name and password before the @",
    UrlViolation.FRAGMENT: "remove the # and the text after it",
    UrlViolation.HOST: (
        "write a full DNS name like hooks.example.com, not an IP address or a local name"
    ),
    UrlViolation.PORT: f"write port {' or '.join(map(str, ALLOWED_PORTS))}, or no port",
}
"""The correction of a URL that violates a rule, without any part of the URL."""


@dataclass(frozen=True, slots=True)
class WebhookUrl:
    """An accepted webhook URL, split into the parts of an HTTP request.

    host is an ASCII DNS name or, in development, an IP address. target is the path and query.
    """

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)  # it may carry the receiver's own token

    @property
    def authority(self) -> str:
        """The value of the Host header, without the port if it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"


def parse_webhook_url(url: str, *, development: bool = False) -> WebhookUrl | UrlViolation:
    """Parse a webhook URL, or return the rule that it violates.

    With development, http, IP addresses, names without a dot and any port are accepted, too.
    Checking and sending share this parser, because two parsers could read a URL differently.
    """
    # urlsplit silently drops tabs and newlines, and other parsers read a backslash as a slash.
    if len(url) > MAX_URL_LENGTH:
        return UrlViolation.LENGTH
    if not url.isprintable() or any(character in url for character in " \\"):
        return UrlViolation.CHARACTERS
    try:
        parts = urlsplit(url)
    except ValueError:
        return UrlViolation.HOST
    violation = _find_violation(parts, url, development=development)
    return violation or _parse_endpoint(parts, development=development)


def _find_violation(parts: SplitResult, url: str, *, development: bool) -> UrlViolation | None:
    if parts.scheme != "https" and not (development and parts.scheme == "http"):
        return UrlViolation.SCHEME
    if "@" in parts.netloc:
        return UrlViolation.USERINFO
    return UrlViolation.FRAGMENT if "#" in url else None


def _parse_endpoint(parts: SplitResult, *, development: bool) -> WebhookUrl | UrlViolation:
    host = _encode_host(parts.hostname or "", development=development)
    # Only IPv6 addresses have brackets, but urlsplit accepts them around names, too.
    if host is None or ("[" in parts.netloc) != (":" in host):
        return UrlViolation.HOST
    try:
        port = _default_port(parts.scheme) if parts.port is None else parts.port
    except ValueError:
        return UrlViolation.PORT
    if port not in ALLOWED_PORTS and not development:
        return UrlViolation.PORT
    query = f"?{parts.query}" if parts.query else ""
    return WebhookUrl(parts.scheme, host, port, f"{parts.path or '/'}{query}")


def _encode_host(host: str, *, development: bool) -> str | None:
    """Encode a host for DNS, TLS and HTTP. Returns None if it is not an acceptable DNS name.

    A last label that starts with a digit is refused, because resolvers read `127.1`, `0x7f.1` and
    `2130706433` as addresses (WHATWG URL, "ends in a number"). A name without a dot is refused,
    because it depends on the resolver's search list; and so is a trailing dot, because
    certificates name hosts without it.
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
