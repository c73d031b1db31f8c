"""Why a service cannot be used, in the same words in every command, and without secrets."""

import socket
import ssl
from typing import NamedTuple

import click

from valetkey.delivery.causes import describe_cause, exception_chain


class Cause(NamedTuple):
    """A cause in words, and what to do next. is_away says that time alone may mend it."""

    text: str
    hint: str
    is_away: bool = False


class ServiceUnusable(click.ClickException):
    """A service that cannot be used ends a command: its name, URL and variable, and the cause."""

    def __init__(self, service: str, cause: Cause) -> None:
        super().__init__(f"cannot use {service}: {cause.text}")
        self.cause = cause

    def format_message(self) -> str:
        """Return the message, and the next step in a line of its own."""
        return f"{self.message}\nNext: {self.cause.hint}"


def network_cause(error: BaseException, setting: str) -> Cause | None:
    """Return the cause of a failed connection; None if the network is not the cause.

    setting names where the address comes from.
    """
    found = (_system_cause(each, setting) for each in exception_chain(error))
    return next(filter(None, found), None)


def _system_cause(error: BaseException, setting: str) -> Cause | None:
    cause: Cause | None = None
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            cause = _closed(setting)  # a proxy whose server is away ends the handshake
        case ssl.SSLError():
            cause = tls_cause(describe_cause(error), setting)
        case socket.gaierror():
            cause = unresolvable(setting)
        case ConnectionRefusedError():
            cause = refused(setting)
        case TimeoutError():
            cause = silent(setting)
        case ConnectionError():
            cause = _closed(setting)
        case OSError(errno=int(number), strerror=str(words), filename=None) if number > 0:
            hint = f"check the network, and the host in {setting}"
            cause = Cause(f"the network says: {words}", hint, is_away=True)
    return cause


def _closed(setting: str) -> Cause:
    hint = f"is it the right port, and does {setting} need TLS?"
    return Cause("the server closes the connection", hint, is_away=True)


def tls_cause(text: str, setting: str) -> Cause:
    """Return the cause of a failed TLS handshake, from the words of the library."""
    hint = f"check the certificate and the TLS parameters of {setting} (docs/operating.md, TLS)"
    return Cause(text, hint)


def refused(setting: str) -> Cause:
    """Return the cause of a refused connection."""
    text = "nothing listens at this host and port (connection refused)"
    return Cause(text, f"start the server, or correct host and port in {setting}", is_away=True)


def unresolvable(setting: str) -> Cause:
    """Return the cause of a host name without an address."""
    hint = f"correct the host in {setting}, or the DNS of this machine"
    return Cause("its host name cannot be resolved", hint, is_away=True)


def silent(setting: str) -> Cause:
    """Return the cause of a connection or call that took too long."""
    hint = (
        f"check that the server runs and no firewall drops packets, and host and port in {setting}"
    )
    return Cause("it does not respond in time", hint, is_away=True)
