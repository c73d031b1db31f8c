"""Names the cause of a failed connection in words, without secrets.

It knows the errors of sockets, TLS, redis-py, kombu and py-amqp. The text of an error may contain a
password or what a server wrote, so only known parts of it are repeated.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Literal, NamedTuple

import redis

Kind = Literal[
    "refused", "host", "unreachable", "timeout", "closed", "password", "no password",
    "unneeded password", "permission", "tls", "file", "database", "protocol", "read-only",
    "memory", "loading", "clients", "other",
]  # fmt: skip

NEXT_STEPS: dict[Kind, str] = {
    "refused": "check the host and port, and that the server runs",
    "host": "check the host name",
    "unreachable": "check the host, and the route and firewall between here and there",
    "timeout": "check the host and port, TLS (redis:// or rediss://) and the firewall",
    "closed": "check the port, and whether the server expects TLS (redis:// or rediss://)",
    "password": "check the user name and the password in the URL; special characters in them must "
    "be percent-encoded",
    "no password": "put them into the URL, as in redis://USER:PASSWORD@HOST:PORT/0",
    "unneeded password": "remove the password from the URL, or name its user",
    "permission": "ask the operator of the server for it; examples/production/users.acl lists what "
    "a producer needs",
    "tls": "check the host name and the authority of the certificate (?ssl_ca_certs=FILE), and "
    "that the port is one for TLS",
    "file": "check the path",
    "database": "use a lower number at the end of the URL",
    "protocol": "check the host and port",
    "read-only": "use the URL of the primary",
    "memory": "its operator has to free memory or to raise maxmemory",
    "loading": "try again in a moment",
    "clients": "close unused clients, or ask its operator to raise maxclients",
    "other": "check the URL, and that the server runs",
}
"""The next step for each kind of cause, as the end of a sentence."""

# Nothing but a change of a setting ends these. The others may pass by themselves.
_PERMANENT: frozenset[Kind] = frozenset({
    "password", "no password", "unneeded password", "permission", "tls", "file", "database",
    "protocol",
})  # fmt: skip
_BUSY: frozenset[Kind] = frozenset({"loading", "clients"})
_OF_ONE_DATABASE: frozenset[Kind] = frozenset({"permission", "database", "read-only", "memory"})

_COMMAND = re.compile(r"run the '([a-z|_-]{1,40})' command")
_CATEGORY = re.compile(r"access a (key|channel)\b")


class Cause(NamedTuple):
    """Why a server could not be used. words contain no secret."""

    kind: Kind
    words: str

    @property
    def is_permanent(self) -> bool:
        """True if trying again is of no use until a setting changes."""
        return self.kind in _PERMANENT

    @property
    def is_busy(self) -> bool:
        """True if the server is certainly the right one, and will soon answer."""
        return self.kind in _BUSY

    @property
    def is_of_server(self) -> bool:
        """True if the cause holds for the whole server, and not only for a database of it."""
        return self.kind not in _OF_ONE_DATABASE

    @property
    def next_step(self) -> str:
        """The next step against the cause."""
        return NEXT_STEPS[self.kind]


# The text, if any, tells errors of the same class apart.
_REDIS_CAUSES: tuple[tuple[type[Exception], str, Cause], ...] = (
    (redis.ReadOnlyError, "", Cause("read-only", "the server is a read-only replica")),
    (redis.OutOfMemoryError, "", Cause("memory", "the server's memory is full (OOM)")),
    (redis.BusyLoadingError, "", Cause("loading", "the server is still loading its data")),
    (redis.exceptions.MasterDownError, "", Cause("loading", "the server has no primary")),
    (redis.InvalidResponse, "", Cause("protocol", "what answers there is not Redis")),
    (redis.ResponseError, "DB index", Cause("database", "it has no database of this number")),
    (redis.ResponseError, "SELECT is", Cause("database", "it has no database of this number")),
    (redis.ConnectionError, "max number", Cause("clients", "too many clients (maxclients)")),
    (redis.ConnectionError, "closed by", Cause("closed", "the server closed the connection")),
    (redis.TimeoutError, "", Cause("timeout", "timed out")),
)

_SOCKET_CAUSES: tuple[tuple[type[OSError], Cause], ...] = (
    (socket.gaierror, Cause("host", "host not found")),
    (TimeoutError, Cause("timeout", "timed out")),
    (ConnectionRefusedError, Cause("refused", "connection refused")),
    (ConnectionResetError, Cause("closed", "the connection was reset")),
    (BrokenPipeError, Cause("closed", "the connection was reset")),
)


def describe_cause(error: BaseException) -> str:
    """Return in words why a server did not answer."""
    return find_cause(error).words


def find_cause(error: BaseException) -> Cause:
    """Return why a server did not answer: the first known cause in the chain of an exception.

    For an unknown error, the words are the name of the exception's class.
    """
    chain = list(exception_chain(error))
    for find in (_tls_cause, _redis_cause, _amqp_cause, _socket_cause):
        for exception in chain:
            cause = find(exception)
            if cause is not None:
                return cause
    return Cause("other", type(error.__cause__ or error).__name__)


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from, or raised while handling."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__


def _tls_cause(error: BaseException) -> Cause | None:
    match error:
        case ssl.SSLCertVerificationError():
            text = f"certificate verify failed: {error.verify_message}".rstrip(".")
            return Cause("tls", text)
        case ssl.SSLError():
            reason = getattr(error, "reason", None)  # one that Python itself raises has none
            return Cause("tls", f"TLS failed: {reason or type(error).__name__}")
    return None


def _redis_cause(error: BaseException) -> Cause | None:
    text = str(error)
    if isinstance(error, redis.AuthenticationError):
        return _authentication_cause(text)
    if isinstance(error, redis.exceptions.NoPermissionError):
        return _permission_cause(text)
    for kind, part, cause in _REDIS_CAUSES:
        if isinstance(error, kind) and part in text:
            return cause
    return None


def _authentication_cause(text: str) -> Cause:
    if "Authentication required" in text or "NOAUTH" in text or text.startswith("HELLO must"):
        return Cause("no password", "the server requires a user name or password")
    if "without any password configured" in text:
        return Cause("unneeded password", "the server's default user has no password")
    return Cause("password", "wrong user name or password")


def _permission_cause(text: str) -> Cause:
    command, category = _COMMAND.search(text), _CATEGORY.search(text)
    what = ""
    if command is not None:
        what = f" to run the command {command[1].upper()}"
    elif category is not None:
        what = f" for a {category[1]}"
    return Cause("permission", f"the user has no permission{what} (ACL)")


def _amqp_cause(error: BaseException) -> Cause | None:
    if not type(error).__module__.startswith("amqp"):
        return None
    match type(error).__name__:
        case "AccessRefused":
            return Cause("password", "wrong user name or password, or no permission")
        case "NotAllowed":
            return Cause("permission", "the user may not use this virtual host")
    return None


def _socket_cause(error: BaseException) -> Cause | None:
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return Cause("file", f"{type(error).__name__}: {error.filename}")
    for kind, cause in _SOCKET_CAUSES:
        if isinstance(error, kind):
            return cause
    if not isinstance(error, OSError):
        return None
    if error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return Cause("unreachable", "host unreachable")
    if f"[Errno {errno.ECONNREFUSED}]" in str(error):  # of asyncio, after several addresses
        return Cause("refused", "connection refused")
    return None
