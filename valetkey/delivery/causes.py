"""Names the cause of a failed connection, without secrets."""

import ssl
from collections.abc import Iterator


def describe_cause(error: BaseException) -> str:
    """Return why a server did not answer: for TLS the reason, for a file its name.

    Otherwise the name of the exception's class, because its text may contain a password.
    """
    for cause in _chain(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return f"certificate verify failed: {cause.verify_message}".rstrip(".")
            case ssl.SSLError():
                return f"TLS failed: {cause.reason or type(cause).__name__}"
            case OSError(filename=str()):
                return f"{type(cause).__name__}: {cause.filename}"
    return type(error.__cause__ or error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from, or raised while handling."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__
