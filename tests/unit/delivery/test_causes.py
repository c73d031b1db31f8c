import ssl
from collections.abc import Callable

import pytest

from valetkey.delivery.causes import describe_cause


class ServerError(Exception):
    """An error of a library, which hides the one that it handles."""


def verification_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "s3cret")
    error.verify_message = "Hostname mismatch."
    return error


def handshake_error() -> ssl.SSLError:
    error = ssl.SSLError(1, "s3cret")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


def raise_handling(cause: Exception) -> None:
    try:
        raise cause
    except type(cause):
        raise ServerError("s3cret") from None


@pytest.mark.parametrize(
    ("make_cause", "text"),
    [
        (verification_error, "certificate verify failed: Hostname mismatch"),
        (handshake_error, "TLS failed: WRONG_VERSION_NUMBER"),
        (lambda: FileNotFoundError(2, "s3cret", "/etc/ca.pem"), "FileNotFoundError: /etc/ca.pem"),
        (lambda: ConnectionRefusedError(111, "s3cret"), "connection refused"),
    ],
)
def test_the_cause_is_named_without_the_text_of_the_error(
    make_cause: Callable[[], Exception], text: str
) -> None:
    with pytest.raises(ServerError) as caught:
        raise_handling(make_cause())
    assert describe_cause(caught.value) == text


def test_the_cause_that_an_error_was_raised_from_is_named() -> None:
    error = ServerError("s3cret")
    error.__cause__ = ConnectionError("s3cret")
    assert describe_cause(error) == "ConnectionError"


def test_a_loop_of_causes_ends() -> None:
    first, second = ServerError(), ServerError()
    first.__cause__, second.__cause__ = second, first
    assert describe_cause(first) == "ServerError"
