"""The command as a server, in a process of its own."""

import signal
import socket
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from tests.support.cli.scraping import Scraped, parse_metrics, serving
from tests.support.servers.databases import migrated_file
from worker.__main__ import main

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def servers(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALETKEY_BROKER_URL", broker)
    monkeypatch.setenv("VALETKEY_RESULT_URL", broker)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{tmp_path / 'valetkey.db'}")


def get(url: str) -> Scraped:
    response = httpx.get(url, timeout=30)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse_metrics(response.text)


def test_metrics_are_served_over_http(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    with serving(VALETKEY_DATABASE_URL=url) as (_, address):
        for _scrape in range(2):
            scraped = get(address)
            assert scraped["valetkey_database_up"] == {(): 1}
            assert set(scraped["valetkey_scrape_complete"].values()) == {1}


def test_a_server_outlives_its_database_and_says_so_once(tmp_path: Path) -> None:
    file = tmp_path / "valetkey.db"
    with serving() as (process, address):
        assert get(address)["valetkey_database_up"] == {(): 0}
        assert get(address)["valetkey_broker_up"] == {(): 1}
        migrated_file(file)
        assert get(address)["valetkey_database_up"] == {(): 1}
        process.terminate()
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    # No worker runs, and the word of the probe that says so may come anywhere.
    lines = [line for line in lines if not line.startswith("the probe failed")]
    assert [line for line in lines if line.startswith("cannot use the database")] == lines[:1]
    assert lines[2:] == ["The database can be used again.", "Stopped."]


def test_the_health_of_the_server_asks_no_database() -> None:
    with serving() as (process, address):  # there is no database
        assert httpx.get(address.replace("/metrics", "/healthz"), timeout=30).text == "ok\n"
        process.terminate()
        assert process.stderr is not None
        assert "cannot use the database" not in process.stderr.read()


def test_a_silent_connection_is_ended_without_a_word() -> None:
    with serving() as (process, address):
        port = httpx.URL(address).port
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            silent.send(b"GET /metr")
            assert silent.recv(1) == b""
        process.terminate()
        assert process.stderr is not None
        assert process.stderr.read() == "Stopped.\n"


def test_a_name_that_is_allowed_is_accepted_and_any_other_gets_nothing() -> None:
    with serving("--allow-host", "Metrics.internal") as (_, address):
        for host in ("metrics.internal:9109", "metrics.internal"):
            assert httpx.get(address, headers={"Host": host}, timeout=30).status_code == 200
        response = httpx.get(address, headers={"Host": "evil.example:9109"}, timeout=30)
        assert (response.status_code, response.content) == (421, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server(number: signal.Signals) -> None:
    with serving() as (process, _):
        process.send_signal(number)
        assert process.wait(30) == 0


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["metrics", "--listen", f"127.0.0.1:{port}"])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.output
    assert "Next: give --listen another host or port" in result.output


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_a_host_of_another_machine_is_refused(host: str) -> None:
    result = CliRunner().invoke(main, ["metrics", "--listen", f"{host}:0"])
    assert result.exit_code == 1
    assert f"cannot listen on {host}:0: " in result.output
    assert "Traceback" not in result.output


NO_ADDRESSES = ["9109", "[1.2]:1", f"{'a' * 64}:1", "a..b:1", ":9109", "127.0.0.1", "127.0.0.1:"]
NO_ADDRESSES += ["127.0.0.1:65536", "::1:9109", "a b:1"]


@pytest.mark.parametrize(
    ("option", "text", "error"),
    [
        *(("--listen", text, "write HOST:PORT") for text in NO_ADDRESSES),
        *(("--window", text, "'--window'") for text in ("", "day", "0", "8d", "-1h")),
        *(
            ("--allow-host", text, "write a host name")
            for text in ("", "a b", "http://a", "a:9109")
        ),
        ("--allow-host", "prometheus", "needs --listen"),
    ],
)
def test_an_address_a_window_or_a_host_that_is_none_is_refused(
    option: str, text: str, error: str
) -> None:
    result = CliRunner().invoke(main, ["metrics", option, text])
    assert (result.exit_code, error in result.output) == (2, True)
