"""A process compares its clock with those of real servers."""

import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest

from tests.support.fakes.socket_server import running_socket_server
from worker.base.clock_watch import ClockWatch


def set_ahead(monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    monkeypatch.setattr("worker.clock.now", lambda: datetime.now(UTC) + ahead)


def test_a_clock_that_no_server_confirms_is_wrong_until_it_is_corrected(
    valkey_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ClockWatch()
    for ahead, is_right in ((timedelta(), True), (timedelta(hours=-1), False), (timedelta(), True)):
        set_ahead(monkeypatch, ahead)
        watch.check(valkey_url, database_url)
        assert watch.is_right == is_right


def test_what_was_found_of_a_clock_stays_while_a_server_is_away(
    valkey_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ClockWatch()
    set_ahead(monkeypatch, timedelta(hours=1))
    watch.check("redis://127.0.0.1:1/0", database_url)
    assert watch.is_right
    watch.check(valkey_url, database_url)
    watch.check("redis://127.0.0.1:1/0", database_url)
    assert not watch.is_right


def test_a_broker_that_answers_nonsense_is_not_compared(
    valkey_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(connection: socket.socket, _: Event) -> None:
        connection.settimeout(5)
        with suppress(TimeoutError):
            while connection.recv(65_536):
                connection.sendall(b"+OK\r\n")

    watch = ClockWatch()
    set_ahead(monkeypatch, timedelta(hours=1))
    watch.check(valkey_url, database_url)
    with running_socket_server(answer) as url:
        watch.check(url.replace("http", "redis"), database_url)
    assert not watch.is_right
