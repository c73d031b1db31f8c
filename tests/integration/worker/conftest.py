import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.builders.loggers import restored_loggers
from worker import logs


@dataclass
class LibraryLog:
    """What libraries wrote at DEBUG, as they wrote it and as the service's log shows it."""

    messages: list[str] = field(default_factory=list)
    stream: io.StringIO = field(default_factory=io.StringIO)

    def check_hides(self, *secrets: str) -> None:
        """Check that libraries did write each secret, and that the log shows none."""
        written, shown = "\n".join(self.messages), self.stream.getvalue()
        assert [secret for secret in secrets if secret not in written] == []
        assert [secret for secret in secrets if secret in shown] == []
        assert len(shown.splitlines()) == len(self.messages)


class _RawHandler(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(self.format(record))


@pytest.fixture
def library_log() -> Iterator[LibraryLog]:
    """The log of this process, with all records of all libraries: no minimum level applies."""
    with restored_loggers():
        logs.configure_logging(logging.DEBUG)
        log = LibraryLog()
        root = logging.getLogger()
        handler = root.handlers[0]
        assert isinstance(handler, logging.StreamHandler)
        handler.removeFilter(logs.reaches_min_level)
        handler.setStream(log.stream)
        root.addHandler(_RawHandler(log.messages))
        for name in logs.MIN_LEVELS:
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield log
