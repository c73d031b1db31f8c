"""A client whose application traces: each message continues the trace of its request."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import pytest
import redis
from opentelemetry import trace

from tests.support.servers.spans import RecordedSpans, recording_spans
from valetkey import AsyncClient, BrokerUnreachable, Client, NoAnswer
from valetkey.delivery.transport import Publisher


@pytest.fixture
def spans() -> Iterator[RecordedSpans]:
    with recording_spans() as spans:
        yield spans


def callers_span(name: str) -> AbstractContextManager[trace.Span]:
    return trace.get_tracer("application").start_as_current_span(name)


def sent_headers(broker: str) -> dict[str, Any]:
    with redis.Redis.from_url(broker) as server:
        headers: dict[str, Any] = json.loads(server.lindex("valetkey", -1))["headers"]
    return headers


def hexadecimal(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_the_header_names_the_span_of_sending_which_is_a_child_of_the_callers(
    client: Client, broker: str, spans: RecordedSpans
) -> None:
    with callers_span("checkout") as checkout:
        client.download("demo", "acme/a.pdf")
    (publish,) = spans.named("publish valetkey")
    assert publish.parent == checkout.get_span_context()
    assert publish.kind is trace.SpanKind.PRODUCER
    assert sent_headers(broker)["traceparent"] == hexadecimal(publish)


def test_a_traced_message_is_written_without_celerys_slow_way(
    client: Client, broker: str, spans: RecordedSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Publisher, "_send_task")
    client.download("demo", "acme/a.pdf")
    assert sent_headers(broker)["traceparent"] == hexadecimal(*spans.named("publish valetkey"))


def test_without_an_sdk_nothing_is_added(client: Client, broker: str) -> None:
    client.download("demo", "acme/a.pdf")
    assert "traceparent" not in sent_headers(broker)


def test_the_span_of_a_bundle_is_linked_to_each_of_its_requests(
    broker: str, spans: RecordedSpans
) -> None:
    async def request_twice() -> None:
        client = AsyncClient(broker, tenant="acme", requested_by="test")
        for name in ("first", "second"):
            with callers_span(name):
                handle = client.download("demo", f"acme/{name}.pdf")
        with pytest.raises(NoAnswer):
            await handle.result(timeout=0.05)
        await client.close()

    asyncio.run(request_twice())
    (bundle,) = spans.named("publish valetkey")
    requests = [*spans.named("first"), *spans.named("second")]
    assert [link.context for link in bundle.links] == [each.get_span_context() for each in requests]
    assert bundle.parent is None
    assert (bundle.attributes or {})["messaging.batch.message_count"] == 2


def test_a_span_says_what_is_sent_but_neither_key_nor_recipient(
    client: Client, spans: RecordedSpans
) -> None:
    handle = client.download("demo", "acme/secret.pdf", recipient="ann")
    (publish,) = spans.named("publish valetkey")
    assert publish.attributes == {
        "messaging.system": "redis",
        "messaging.destination.name": "valetkey",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.message.id": f"{handle.id}.0",
        "valetkey.tenant": "acme",
        "valetkey.ask": "grants",
        "valetkey.kind": "download",
        "valetkey.items": 1,
    }


def test_a_span_of_a_failure_has_its_type_but_not_its_text(
    client: Client, spans: RecordedSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise BrokerUnreachable("redis://user:secret@broker")

    monkeypatch.setattr(Publisher, "send", refuse)
    with pytest.raises(BrokerUnreachable):
        client.download("demo", "acme/a.pdf")
    (publish,) = spans.named("publish valetkey")
    assert (publish.status.status_code, publish.status.description) == (
        trace.StatusCode.ERROR,
        None,
    )
    assert (publish.attributes or {})["error.type"] == "BrokerUnreachable"
    assert not publish.events
