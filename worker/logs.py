import logging
import re
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

# A second safeguard: the service logs none of these, but a library's message may quote a URL.
_SECRET = re.compile(
    r"""(X-Amz-(?:Signature|Security-Token|Credential)(?:=|["']?\s*:\s*["']?)"""
    r"""|["']d["']\s*:\s*["']|whsec_|://[^/@\s:]*:)[^&\s"'@]+""",
    re.IGNORECASE,
)
# A JSON object in base64url and the parts that may follow it in a JWS or JWE, complete or cut off:
# Celery logs an excerpt of each message that it discards.
_TOKEN = re.compile(r"\be(?:yJ|yA|wo)[\w-]{8,}(?:\.[\w-]*){0,4}", re.ASCII)


def scrub(text: str) -> str:
    """Replace signatures, tokens, private keys, webhook secrets and passwords in URLs."""
    return _TOKEN.sub("[hidden]", _SECRET.sub(r"\1[hidden]", text))


def configure_logging(level: int = logging.INFO) -> None:
    """Write all log records to stderr, one JSON object per line, with secrets replaced."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _scrub_all,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # At DEBUG, botocore logs signatures, and the credentials in responses of STS.
    logging.getLogger("botocore").setLevel(max(level, logging.INFO))
    # Celery logs each finished task with its return value, which here contains grants.
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _scrub_all(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {
        name: scrub(value) if isinstance(value, str) else value for name, value in event.items()
    }
