from valetkey.wire.unavailable import Part


class WorkerError(Exception):
    """Base class of the worker's errors."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class Malformed(WorkerError):
    """The request can never succeed as it is; do not retry it."""


class Transient(WorkerError):
    """A required resource was unavailable; the same call may succeed later.

    part is reported to producers. The message is only for the log.
    """

    def __init__(self, message: str | None = None, part: Part = "service") -> None:
        self.part = part
        super().__init__(message)


class StorageSilent(Transient):
    """Storage does not answer; further calls to it are likely to take long, too."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, "storage")
