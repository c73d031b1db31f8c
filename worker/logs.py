"""The service's log: one JSON object per line on stderr, without secrets.

What libraries print, warnings and tracebacks are lines of the log, too.

There are two safeguards. Loggers of libraries that handle secrets stay above a minimum level,
whatever the level of the log. And everything that is written is scrubbed, because a library's
warning or a traceback may still quote a secret.
"""

import io
import json
import logging
import os
import re
import socket
import sys
import threading
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from valetkey.wire import RELEASE

_ABOVE_DEBUG = logging.INFO
MIN_LEVELS = {
    "boto3": _ABOVE_DEBUG,  # the parameters of calls
    "botocore": _ABOVE_DEBUG,  # signatures, request headers, the credentials in STS's responses
    "s3transfer": _ABOVE_DEBUG,  # the parameters of calls
    "urllib3": _ABOVE_DEBUG,  # URLs with their query
    "httpx": logging.WARNING,  # at INFO, URLs with their query
    "httpcore": _ABOVE_DEBUG,  # response headers
    "kombu": _ABOVE_DEBUG,  # message bodies
    "redis": _ABOVE_DEBUG,  # connections
    "celery.app.trace": logging.WARNING,  # at INFO, results of tasks, which are grants
    "celery.pool": _ABOVE_DEBUG,  # message bodies
    "psycopg": _ABOVE_DEBUG,  # connections
    "sqlalchemy": logging.WARNING,  # at INFO, every statement; at DEBUG, rows
}
"""The lowest level at which each library writes nothing secret. Applies to child loggers, too."""

# Texts are quoted in other texts: quotes may be escaped, and all of it percent-encoded.
_QUOTE = r"""(?:\\*["']|%(?:25)*2[27]|&(?:quot|\#3[49]);)"""
_COLON = r"(?:[=:]|%(?:25)*3[AaDd])"
_SPACE = r"(?:\s|\\++[nrt])*+"
# Between name and value: a colon or equals sign, a comma after a quoted name, or the end of a tag.
_SEPARATOR = rf"""
    (?: {_QUOTE}? \s* {_COLON} {_SPACE} | {_QUOTE} \s* , \s*+ | (?:>|&gt;) {_SPACE} )
    (?! \[hidden\] )
"""
# A quoted value ends at its quote. Others end at a delimiter or, if they have several words, at the
# end of the line.
_QUOTED = r"""
    (?: b?"(?:[^"\\]|\\.)*+"? | b?'(?:[^'\\]|\\.)*+'?
    | b?\\+["'][^"'\\]*+(?:\\+["'])?
    | %(?:25)*2[27](?:(?!%(?:25)*2[27])[^\s&])*+ | &(?:quot|\#3[49]);[^&\s]*+ )
"""
_WORD = r"""[^\s"'\\&<>,;)\]}]++"""
_LINE = r"""[^\r\n"'\\<]++"""
# Base64 may continue in the next line: in e-mails after 76 characters, in PEM after 64.
_NEXT_LINE = r"(?:(?<=[\w+/.-]{60})(?:\r?\n|(?:\\++r)?\\++n)[ \t]*+[\w+/.-]++=*+)"
_WRAPPED = rf"""(?:{_NEXT_LINE}(?=["'\\\r\n<&,;)\]}}]|\Z))*+"""
_NAME = r"""
    (?: secret(?:[_-]?access)?(?:[_-]?key)? | private[_-]?key | token | passw(?:or)?d | passphrase
    | credential | signature | external[_-]?id )
"""
_HEADER = "(?: authorization | webhook-signature | cookie )"
_SECRET = re.compile(
    rf"""
    ( {_HEADER} {_SEPARATOR} ) (?: {_QUOTED} | {_LINE} ) {_WRAPPED}
    | ( {_NAME} {_SEPARATOR} ) (?: {_QUOTED} | {_WORD} ) {_WRAPPED}
    # The private part of a JWK
    | ( (?:["']|%(?:25)*22|&quot;)d {_QUOTE} \s* {_COLON} {_SPACE} (?!\[hidden\]) ) {_QUOTED}
    # The password in a URL, but not a port
    | ( ://[^/@\s:\[]*: ) (?! \[hidden\] | \d{{1,5}} (?:[^\w@:%.~+!$*-]|$) )
        [^\s"'\\@]++ (?: @[^\s"'\\@/]++(?=@) )*+
    # A webhook secret, and the signature of a webhook
    | ( whs(?:ec|k)_ ) [\w+/=-]++
    | ( \bv1a?, ) [\w+/]{{40,}}={{0,2}}
    # Rows, in which values have no names
    | ( \A Row[ ] | Failing[ ]row[ ]contains[ ] ) \( .*+
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_SECRET_NAME = re.compile(f"{_NAME}|{_HEADER}", re.IGNORECASE | re.VERBOSE)
# JSON in base64: an object and the parts that may follow it in a JWS or JWE, complete or cut off,
# as in Celery's excerpt of a message that it discards; or an array, as in Kombu's message bodies.
_TOKEN = re.compile(
    r"(?:\b|(?<=\\[nrt]))(?:e(?:yJ|yA|wo)|W1(?:si|t7))[\w+/-]{8,}=*(?:\.[\w-]*){0,4}"
    rf"{_NEXT_LINE}*+",
    re.ASCII,
)
_HIDDEN = "[hidden]"


def scrub(text: str) -> str:
    """Replace credentials, signatures, tokens, private keys, passwords and webhook secrets.

    Takes time in proportion to the length of the text.
    """
    without_values = _SECRET.sub(lambda match: f"{match[match.lastindex or 0]}{_HIDDEN}", text)
    return _TOKEN.sub(_HIDDEN, without_values)


_HOST = socket.gethostname()


def _process_fields() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": _HOST, "release": RELEASE}


def _add_process(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {**event, **_process_fields()}


def configure_logging(level: int = logging.INFO) -> None:
    """Write all log records to stderr, one JSON object per line, with secrets replaced."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        _add_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            scrub_event,
            structlog.processors.JSONRenderer(),
        ],
    )
    # Celery configures logging again, after `log_all_output`.
    handler = _Handler(sys.__stderr__ if isinstance(sys.stderr, _PrintedLines) else None)
    handler.setFormatter(formatter)
    handler.addFilter(reaches_min_level)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # For loggers without a handler that do not propagate, such as that of Celery's processes.
    logging.lastResort = handler
    _reset_library_loggers(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class _Handler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - overrides
        """Report a record that cannot be formatted. The default prints its arguments."""
        event = {"event": "log_failed", "logger": record.name, "level": "error"}
        self.stream.write(json.dumps(event | _process_fields()) + self.terminator)


def log_all_output() -> None:
    """Let this process and its children log what they would print. Configure logging before."""
    logging.captureWarnings(capture=True)
    log = structlog.get_logger()
    sys.excepthook = lambda *error: log.critical("uncaught_error", exc_info=error)
    threading.excepthook = lambda args: log.error(
        "uncaught_error",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        thread=args.thread.name if args.thread else None,
    )
    sys.stdout = sys.stderr = _PrintedLines()  # the log has the stream that stderr was
    sys.__stdout__ = None  # type: ignore[misc] # Celery writes there when it stops


_MAX_LINE = 65_536  # characters


class _PrintedLines(io.TextIOBase):
    """A text stream whose lines are logged.

    Lines that are written at once are one record: a secret may begin in one and end in the next.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0

    def write(self, text: str) -> int:
        lines, newline, rest = text.rpartition("\n")
        if not newline and self._length < _MAX_LINE:
            self._parts.append(text)
            self._length += len(text)
            return len(text)
        if not newline:
            lines, rest = rest, ""
        printed = "".join((*self._parts, lines))
        self._parts, self._length = [rest], len(rest)
        if printed.strip():
            logging.getLogger("output").warning("%s", printed)
        return len(text)


def _reset_library_loggers(level: int) -> None:
    # A library may have added a handler of its own, as Kombu does if KOMBU_LOG_DEBUG is set.
    for name in tuple(logging.root.manager.loggerDict):
        if min_level(name):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
    for name, minimum in MIN_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, minimum))


def min_level(logger_name: str) -> int:
    """Return the minimum level of a logger, which is that of its library."""
    parts = logger_name.split(".")
    parents = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return max(MIN_LEVELS.get(parent, logging.NOTSET) for parent in parents)


def reaches_min_level(record: logging.LogRecord) -> bool:
    """Return whether a record may be written.

    The level of a library's logger does not bind its children, which may have levels of their own.
    """
    return record.levelno >= min_level(record.name)


def scrub_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace the secrets in a log event's fields: texts, bytes, containers, exceptions."""
    return {name: _scrub_field(name, value) for name, value in event.items()}


def _scrub_field(name: str, value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if _SECRET_NAME.search(name):
        return _HIDDEN
    if isinstance(value, str):
        return scrub(value)
    # The renderer would write most of them by their repr, too.
    text = repr(value)
    scrubbed = scrub(text)
    return value if scrubbed == text else scrubbed
