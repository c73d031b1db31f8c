"""Why a service cannot be used, in the same words in every command, and without secrets."""

import ssl
from collections.abc import Mapping

import click

from valetkey.delivery import causes
from valetkey.delivery.causes import Kind, exception_chain, find_cause
from worker.base.database_errors import Cause


class ServiceUnusable(click.ClickException):
    """A service that cannot be used ends a command: its name, URL and variable, and the cause."""

    def __init__(self, service: str, cause: Cause) -> None:
        super().__init__(f"cannot use {service}: {cause.text}")
        self.cause = cause

    def format_message(self) -> str:
        """Return the message, and the next step in a line of its own."""
        return f"{self.message}\nNext: {self.cause.hint}"


# By the kinds of valetkey.delivery.causes, which finds them. The later ones are those of Redis.
_CAUSES: Mapping[Kind, tuple[str, str]] = {
    causes.REFUSED: (
        "nothing listens at this host and port (connection refused)",
        "start the server, or correct host and port in {setting}",
    ),
    causes.HOST: (
        "its host name cannot be resolved",
        "correct the host in {setting}, or the DNS of this machine",
    ),
    causes.TIMEOUT: (
        "it does not respond in time",
        "check that the server runs and no firewall drops packets, and host and port in {setting}",
    ),
    causes.CLOSED: (
        "the server closes the connection",
        "is it the right server and port, and does {setting} need TLS?",
    ),
    causes.TLS: (
        "TLS failed",
        "check the certificate and the TLS parameters of {setting} (docs/runbooks/service.md)",
    ),
    causes.PASSWORD: (
        "the server refuses the user or the password",
        "correct the user and password in {setting}",
    ),
    causes.NO_PASSWORD: (
        "the server asks for a password, and the URL has none",
        "write the user and password into {setting}: redis://USER:PASSWORD@HOST:6379/0",
    ),
    causes.UNNEEDED_PASSWORD: (
        "the server's default user has no password",
        "remove the password from {setting}, or name its user",
    ),
    causes.PERMISSION: (
        "its user may not run this command, or not on these keys",
        "give the user the permissions of `worker` in examples/production/users.acl",
    ),
    causes.READ_ONLY: (
        "it is a replica, which is read-only",
        "write the address of the primary server into {setting}",
    ),
    causes.CLUSTER: (
        causes.IS_CLUSTER,
        "name one server in {setting}, or several with Sentinel: docs/availability.md",
    ),
    causes.NO_PRIMARY: (
        "no sentinel that answers knows a running primary of this name",
        "wait for the end of the failover, or check the sentinels, and master_name in {setting}",
    ),
    causes.SENTINEL_PASSWORD: (
        "a sentinel refuses the user or the password",
        "correct sentinel_username and sentinel_password in {setting}",
    ),
    causes.MEMORY: (
        "its memory is full (maxmemory), so it takes no messages",
        "raise maxmemory of the server, or remove what fills it",
    ),
    causes.LOADING: (
        "it still loads its data, or has no primary server",
        "wait a moment, and try again",
    ),
    causes.CLIENTS: (
        "it has no free connection (maxclients)",
        "raise maxclients of the server, or close connections",
    ),
    causes.PROTOCOL: (
        "what answers is not Redis or Valkey",
        "correct host and port in {setting}",
    ),
    causes.DATABASE: (
        "the server has no database of this number",
        "write a lower number at the end of {setting}; a server has 16 by default",
    ),
}
_TEMPORARY = frozenset(
    {
        *(causes.REFUSED, causes.HOST, causes.TIMEOUT, causes.CLOSED, causes.LOADING),
        *(causes.CLIENTS, causes.NO_PRIMARY),
    }
)


def cause_of_kind(kind: Kind, setting: str, text: str | None = None) -> Cause:
    """Return the cause of a kind, with a text that says more of it, if any."""
    default, hint = _CAUSES[kind]
    return Cause(text or default, hint.format(setting=setting), is_temporary=kind in _TEMPORARY)


def network_cause(error: BaseException, setting: str) -> Cause | None:
    """Return the cause of a failed connection or command; None if it is not known.

    setting names where the address comes from.
    """
    chain = list(exception_chain(error))
    # A proxy whose server is unreachable ends the handshake.
    if any(isinstance(each, ssl.SSLEOFError | ssl.SSLZeroReturnError) for each in chain):
        return cause_of_kind(causes.CLOSED, setting)
    kind, words = find_cause(error)
    if kind in _CAUSES:
        return cause_of_kind(kind, setting, words if kind == causes.TLS else None)
    for each in chain:
        match each:
            case ConnectionError():
                return cause_of_kind(causes.CLOSED, setting)
            case OSError(errno=int(number), strerror=str(words), filename=None) if number > 0:
                hint = f"check the network, and the host in {setting}"
                return Cause(f"the network says: {words}", hint, is_temporary=True)
    return None
