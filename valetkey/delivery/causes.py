"""Names the cause of a failed connection in words, without secrets.

It knows the errors of sockets, TLS, redis-py, kombu and py-amqp. The text of an error may contain a
password or what a server wrote, so only known parts of it are repeated.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import redis
import redis.asyncio.sentinel
import redis.sentinel


class Kind(NamedTuple):
    """A kind of cause, and the next step against it, as the end of a sentence.

    is_permanent is true if trying again is of no use until a setting changes, is_busy if the server
    is certainly the right one, and will soon answer. is_of_server is false if the cause lies in one
    database of the server.
    """

    next_step: str
    is_permanent: bool = False
    is_busy: bool = False
    is_of_server: bool = True


class Cause(NamedTuple):
    """Why a server could not be used. words contain no secret."""

    kind: Kind
    words: str


REFUSED = Kind("check the host and port, and that the server runs")
HOST = Kind("check the host name")
_UNREACHABLE = Kind("check the host, and the route and firewall between here and there")
TIMEOUT = Kind("check the host and port, TLS (redis:// or rediss://) and the firewall")
CLOSED = Kind("check the port, and whether the server expects TLS (redis:// or rediss://)")
PASSWORD = Kind(
    "check the user name and the password in the URL; special characters in them must be "
    "percent-encoded",
    is_permanent=True,
)
NO_PASSWORD = Kind(
    "put them into the URL, as in redis://USER:PASSWORD@HOST:PORT/0", is_permanent=True
)
UNNEEDED_PASSWORD = Kind("remove the password from the URL, or name its user", is_permanent=True)
PERMISSION = Kind(
    "ask the operator of the server for it; examples/production/users.acl lists what a producer "
    "needs",
    is_permanent=True,
    is_of_server=False,
)
TLS = Kind(
    "check the host name and the authority of the certificate (?ssl_ca_certs=FILE), and that the "
    "port is one for TLS",
    is_permanent=True,
)
_FILE = Kind("check the path", is_permanent=True)
DATABASE = Kind("use a lower number at the end of the URL", is_permanent=True, is_of_server=False)
PROTOCOL = Kind("check the host and port", is_permanent=True)
READ_ONLY = Kind("use the URL of the primary", is_of_server=False)
MEMORY = Kind("its operator has to free memory or to raise maxmemory", is_of_server=False)
CLUSTER = Kind("use one server, or several with Sentinel: docs/availability.md", is_permanent=True)
NO_PRIMARY = Kind(
    "a failover may be under way; if this stays, check master_name, ssl and the certificates, the "
    "addresses of the sentinels, and that a primary runs"
)
SENTINEL_PASSWORD = Kind(
    "check sentinel_username and sentinel_password in the URL; special characters in them must be "
    "percent-encoded",
    is_permanent=True,
)
_SENTINEL_ACL = Kind("docs/availability.md lists the permissions that its user needs")
_SENTINEL_ADDRESS = Kind("check the addresses and ports of the sentinels")
LOADING = Kind("try again in a moment", is_busy=True)
CLIENTS = Kind("close unused clients, or ask its operator to raise maxclients", is_busy=True)
_OTHER = Kind("check the URL, and that the server runs")

_COMMAND = re.compile(r"run the '([a-z|_-]{1,40})' command")
_CATEGORY = re.compile(r"access a (key|channel)\b")

IS_CLUSTER = "it is a Redis Cluster, which Celery's transport does not support"
_NO_DATABASE = (
    "it has no database of this number (a Redis Cluster, which is not supported, only has number 0)"
)
_CLUSTER = Cause(CLUSTER, IS_CLUSTER)
_NOT_FOUND = (redis.sentinel.MasterNotFoundError, redis.asyncio.sentinel.MasterNotFoundError)

# The text, if any, distinguishes errors of the same class.
_REDIS_CAUSES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, Cause], ...] = (
    (redis.ReadOnlyError, "", Cause(READ_ONLY, "the server is a read-only replica")),
    (redis.OutOfMemoryError, "", Cause(MEMORY, "the server's memory is full (OOM)")),
    (redis.BusyLoadingError, "", Cause(LOADING, "the server is still loading its data")),
    (redis.exceptions.MasterDownError, "", Cause(LOADING, "the server has no primary")),
    (redis.exceptions.ClusterError, "", _CLUSTER),
    (redis.exceptions.AskError, "", _CLUSTER),  # and MOVED
    (redis.exceptions.ClusterCrossSlotError, "", _CLUSTER),
    (redis.ResponseError, "SELECT is", _CLUSTER),  # "not allowed in cluster mode"
    (_NOT_FOUND, "AuthenticationError", Cause(SENTINEL_PASSWORD, "a sentinel refuses the login")),
    (
        _NOT_FOUND,
        "SentinelRefuses",
        Cause(_SENTINEL_ACL, "a sentinel refuses SENTINEL MASTERS (ACL)"),
    ),
    (_NOT_FOUND, "NotASentinel", Cause(_SENTINEL_ADDRESS, "what answers is no sentinel")),
    (_NOT_FOUND, " : ", Cause(NO_PRIMARY, "no sentinel that answers knows a running primary")),
    (_NOT_FOUND, "", Cause(NO_PRIMARY, "the sentinels know no running primary of this name")),
    (redis.ConnectionError, "now a slave", Cause(NO_PRIMARY, "the primary became a replica")),
    (redis.InvalidResponse, "", Cause(PROTOCOL, "what answers there is not Redis")),
    (redis.ResponseError, "DB index", Cause(DATABASE, _NO_DATABASE)),
    (redis.ConnectionError, "max number", Cause(CLIENTS, "too many clients (maxclients)")),
    (redis.ConnectionError, "closed by", Cause(CLOSED, "the server closed the connection")),
    (redis.TimeoutError, "", Cause(TIMEOUT, "timed out")),
)

_SOCKET_CAUSES: tuple[tuple[type[OSError], Cause], ...] = (
    (socket.gaierror, Cause(HOST, "host not found")),
    (TimeoutError, Cause(TIMEOUT, "timed out")),
    (ConnectionRefusedError, Cause(REFUSED, "connection refused")),
    (ConnectionResetError, Cause(CLOSED, "the connection was reset")),
    (BrokenPipeError, Cause(CLOSED, "the connection was reset")),
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
    return Cause(_OTHER, type(error.__cause__ or error).__name__)


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
            return Cause(TLS, text)
        case ssl.SSLError():
            reason = getattr(error, "reason", None)  # one that Python itself raises has none
            return Cause(TLS, f"TLS failed: {reason or type(error).__name__}")
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
        return Cause(NO_PASSWORD, "the server requires a user name or password")
    if "without any password configured" in text:
        return Cause(UNNEEDED_PASSWORD, "the server's default user has no password")
    return Cause(PASSWORD, "wrong user name or password")


def _permission_cause(text: str) -> Cause:
    command, category = _COMMAND.search(text), _CATEGORY.search(text)
    what = ""
    if command is not None:
        what = f" to run the command {command[1].upper()}"
    elif category is not None:
        what = f" for a {category[1]}"
    return Cause(PERMISSION, f"the user has no permission{what} (ACL)")


def _amqp_cause(error: BaseException) -> Cause | None:
    if not type(error).__module__.startswith("amqp"):
        return None
    match type(error).__name__:
        case "AccessRefused":
            return Cause(PASSWORD, "wrong user name or password, or no permission")
        case "NotAllowed":
            return Cause(PERMISSION, "the user may not use this virtual host")
    return None


def _socket_cause(error: BaseException) -> Cause | None:
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return Cause(_FILE, f"{type(error).__name__}: {error.filename}")
    for kind, cause in _SOCKET_CAUSES:
        if isinstance(error, kind):
            return cause
    if not isinstance(error, OSError):
        return None
    if error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return Cause(_UNREACHABLE, "host unreachable")
    if f"[Errno {errno.ECONNREFUSED}]" in str(error):  # of asyncio, after several addresses
        return Cause(REFUSED, "connection refused")
    return None
