"""A client that cannot use a server says which, where its URL comes from, and why."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import pytest
import redis

from tests.support.fakes.fake_service import running_fake_service
from tests.support.fakes.socket_server import Answer, answer_http, running_socket_server
from tests.support.servers.event_loop import async_client, in_event_loop
from valetkey import BrokerUnreachable, Client
from valetkey.config import load_config
from valetkey.delivery.transport import Publisher, client_servers
from worker.dev.embedded_servers import running_valkey

CASES = {
    "wrong password": ("redis://bob:s3cret@HOST/0", "broker at redis://HOST/0", "wrong user name"),
    "no password": ("redis://HOST/0", "broker at redis://HOST/0", "requires a user name"),
    "database": ("redis://bob:pw@HOST/99", "broker at redis://HOST/99", "no database of this"),
    "no permission": ("redis://nobody:pw@HOST/0", "broker at redis://HOST/0", "command LPUSH"),
    "other keys": ("redis://other:pw@HOST/0", "broker at redis://HOST/0", "permission for a key"),
    "deaf": ("redis://deaf:pw@HOST/0", "result store at redis://HOST/1", "for a channel"),
    "blind": ("redis://blind:pw@HOST/0", "result store at redis://HOST/1", "command MGET"),
    "refused": ("redis://:s3cret@127.0.0.1:1/0", "broker at", "connection refused; check the host"),
    "unknown host": ("redis://:s3cret@no-such-host.invalid/0", "broker at", "host not found"),
}


@pytest.fixture(scope="module")
def locked_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of a broker whose default user is off."""
    with running_valkey(tmp_path_factory.mktemp("locked")) as server:
        with redis.Redis.from_url(server.url()) as admin:
            for user, *rules in (
                ("bob", "~*", "&*", "+@all"),
                ("nobody", "~*", "&*", "-@all", "+ping", "+select", "+subscribe"),
                ("other", "~other", "&*", "+@all"),
                ("deaf", "~*", "resetchannels", "&other", "+@all"),
                ("blind", "~*", "&*", "+@all", "-mget"),
            ):
                admin.execute_command("ACL", "SETUSER", user, "on", ">pw", *rules)
            admin.execute_command("ACL", "SETUSER", "default", "resetpass")
        with redis.Redis.from_url(server.url(), username="bob", password="pw") as admin:
            admin.execute_command("ACL", "SETUSER", "default", ">d3fault")
        yield urlsplit(server.url()).netloc


def use_client(url: str) -> None:
    with Client(url, tenant="acme", exit_timeout=0) as client:
        client.download("reports", "a.pdf").result(20)


@in_event_loop
async def use_async_client(url: str) -> None:
    async with async_client(url) as client:
        await client.download("reports", "a.pdf").result(20)


def use_publisher(url: str) -> None:
    """Send a message without a client, which would connect to the result store first."""
    servers = client_servers(load_config({"broker_url": url, "tenant": "acme"}, {}))
    with closing(Publisher(servers)) as publisher:
        publisher.send("id", {}, "valetkey")


@pytest.mark.parametrize("use", [use_client, use_async_client])
@pytest.mark.parametrize("case", CASES)
def test_a_server_that_cannot_be_used_is_named_with_the_cause(
    locked_broker: str, case: str, use: Callable[[str], None]
) -> None:
    url, where, cause = (text.replace("HOST", locked_broker) for text in CASES[case])
    start = time.monotonic()
    with pytest.raises(BrokerUnreachable) as caught:
        use(url)
    assert time.monotonic() - start < 5  # it is not tried again: that would change nothing
    message = str(caught.value)
    assert message.startswith(f"cannot use the {where}")
    assert cause in message
    assert "s3cret" not in message
    assert "pw" not in message


def reset(connection: socket.socket, _: Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("answer", "cause"),
    [(answer_http, "what answers there is not Redis"), (reset, "the connection was reset")],
)
def test_a_port_of_something_else_is_named_with_the_cause(answer: Answer, cause: str) -> None:
    with (
        running_socket_server(answer) as url,
        Client(url.replace("http", "redis"), tenant="acme", exit_timeout=0) as client,
        pytest.raises(BrokerUnreachable, match=cause),
    ):
        client.download("reports", "a.pdf")


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("CONFIG SET maxmemory 1", "the server's memory is full"),
        ("REPLICAOF 127.0.0.1 1", "the server is a read-only replica"),
    ],
)
def test_a_server_that_takes_nothing_is_named_with_the_cause(
    tmp_path: Path, command: str, cause: str
) -> None:
    with running_valkey(tmp_path) as server:
        with redis.Redis.from_url(server.url()) as admin:
            admin.execute_command(*command.split())
        with (
            Client(server.url(), tenant="acme", exit_timeout=0) as client,
            pytest.raises(BrokerUnreachable, match=cause),
        ):
            client.download("reports", "a.pdf")


NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("broker_url", "result_url", "error"),
    [
        (f"redis://{NOWHERE}", None, r"\(from the argument broker_url\): connection refused"),
        (None, None, r"\(from VALETKEY_BROKER_URL\): connection refused"),
        ("BROKER", f"redis://{NOWHERE}/1", "result store at .* argument result_url"),
        (f"amqp://u:s3cret@{NOWHERE}//", "BROKER", f"cannot use the broker at amqp://{NOWHERE}/"),
    ],
)
def test_the_server_and_the_source_of_its_url_are_named_without_a_password(
    broker: str,
    monkeypatch: pytest.MonkeyPatch,
    broker_url: str | None,
    result_url: str | None,
    error: str,
) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", f"redis://{NOWHERE}")
    broker_url, result_url = (
        url and url.replace("BROKER", broker) for url in (broker_url, result_url)
    )
    with (
        Client(broker_url, result_url, "acme", exit_timeout=0) as client,
        pytest.raises(BrokerUnreachable, match=error) as caught,
    ):
        client.download("reports", "a.pdf")
    assert "s3cret" not in str(caught.value)


def test_a_broker_that_lost_every_message_gets_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 0.1)
    with running_valkey(tmp_path / "before") as server:
        client = Client(server.url(), tenant="acme")
        handle = client.download("reports", "a.pdf")
    with pytest.raises(BrokerUnreachable):
        handle.result(1)
    with (
        running_valkey(tmp_path / "after", server.port) as restarted,
        running_fake_service(restarted.url()),
        client,
    ):
        assert client.download("reports", "b.pdf").result(20).key == "b.pdf"
        assert handle.result(20).key == "a.pdf"


def sentinel_with(answer: bytes) -> Answer:
    """Return an answer like that of a sentinel, which lists its primaries by some bytes."""
    answers = {b"SENTINEL": answer, b"HELLO": b"%1\r\n+proto\r\n:3\r\n"}

    def respond(connection: socket.socket, _: Event) -> None:
        connection.settimeout(0.3)  # the client asks twice, and may leave its connection open
        with suppress(TimeoutError), connection.makefile("rb") as stream:
            while count := stream.readline()[1:]:
                words = [(stream.readline(), stream.readline())[1] for _ in range(int(count))]
                connection.sendall(answers.get(words[0].strip(), b"+OK\r\n"))

    return respond


def primary_list(**fields: str) -> bytes:
    """Return a list of one primary as a sentinel writes it."""
    words = [
        word for pair in {"name": "main", "flags": "master", **fields}.items() for word in pair
    ]
    texts = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"*1\r\n*{len(words)}\r\n{texts}".encode()


@pytest.mark.parametrize("use", [use_client, use_async_client, use_publisher])
@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b"*1\r\n*2\r\n$2\r\n\xff\xfe\r\n$2\r\n\xff\xfe\r\n",
        primary_list(),
        primary_list(**{"ip": "..", "port": "6379", "num-other-sentinels": "2"}),
        primary_list(**{"ip": "127.0.0.1", "port": "99999", "num-other-sentinels": "2"}),
    ],
    ids=["text", "binary", "no address", "impossible host", "impossible port"],
)
def test_nonsense_from_a_sentinel_is_named_as_such(
    answer: bytes, use: Callable[[str], None]
) -> None:
    with (
        running_socket_server(sentinel_with(answer)) as url,
        pytest.raises(BrokerUnreachable, match="what answers is no sentinel; check the addresses"),
    ):
        use(f"{url.replace('http', 'sentinel')}/0?master_name=main")
