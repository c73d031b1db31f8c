class WorkerError(Exception):
    """Something went wrong in the worker."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class Malformed(WorkerError):
    """What was asked can never succeed as it is; do not try it again."""


class Transient(WorkerError):
    """Something needed was out of reach; the same call may succeed later."""
