"""The two servers of a client, and the error that names the one that cannot be used."""

from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from valetkey.config import Config, redact_url
from valetkey.delivery.causes import find_cause
from valetkey.errors import BrokerUnreachable

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Server(NamedTuple):
    """A server, its URL, and where the URL comes from, like `from VALETKEY_BROKER_URL`."""

    role: Literal["broker", "result store"]
    url: str
    source: str

    def unreachable(
        self, error: BaseException, same_server: "Server | None" = None
    ) -> BrokerUnreachable:
        """Return the error for a failed use of this server, without secrets.

        same_server is set if its URL differs only in the database: the error then names this one,
        whose URL the user knows, unless the cause lies in the database.
        """
        cause = find_cause(error)
        server = same_server if same_server is not None and cause.is_of_server else self
        where = f"{server.role} at {redact_url(server.url)} ({server.source})"
        text = f"cannot use the {where}: {cause.words}; {cause.next_step}"
        if cause.kind == "refused" and urlsplit(server.url).hostname in _LOOPBACK:
            text += " (`python -m worker dev` starts one on this machine)"
        return BrokerUnreachable(
            text, is_permanent=cause.is_permanent, is_busy=cause.is_busy, server=server.role
        )


class Servers(NamedTuple):
    """The broker and the result store of a client."""

    broker: Server
    store: Server
    is_same_server: bool

    def broker_error(self, error: BaseException) -> BrokerUnreachable:
        """Return the error for a failed use of the broker."""
        return self.broker.unreachable(error)

    def store_error(self, error: BaseException) -> BrokerUnreachable:
        """Return the error for a failed use of the result store."""
        return self.store.unreachable(error, self.broker if self.is_same_server else None)


def client_servers(config: Config) -> Servers:
    """Return the servers of a client's configuration."""
    broker, store = urlsplit(config.broker_url), urlsplit(config.result_url)
    store_source = config.result_source or (
        "database 1 of the broker's server; VALETKEY_RESULT_URL sets another"
    )
    return Servers(
        Server("broker", config.broker_url, config.broker_source),
        Server("result store", config.result_url, store_source),
        is_same_server=broker[:2] == store[:2],  # scheme; user, password, host and port
    )
