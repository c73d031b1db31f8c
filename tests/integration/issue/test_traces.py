"""The spans of messages that a worker processes, and of webhooks that it sends."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.builders.messages import Clock, download_chunks, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.crypto.tenants import ACME_KEY, config_with_keys
from tests.support.crypto.tokens import sign_message
from tests.support.servers.spans import RecordedSpans, recording_spans
from valetkey.wire.messages import VERSION
from worker import clock as worker_clock
from worker import tasks

TRACE_ID, SPAN_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
TRACEPARENT = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"
STAGES = ["authenticate", "decide", "sign", "database", "commit"]


@pytest.fixture
def spans(service: InProcessService, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedSpans]:
    monkeypatch.setattr(tasks, "job_context", lambda: service.context)
    service.apply(tenant_config())
    with recording_spans() as spans:
        yield spans


def process(spans: RecordedSpans, message: Any, **headers: Any) -> ReadableSpan:
    """Process a message that was sent in a trace; return its span."""
    headers = {"traceparent": TRACEPARENT} | headers
    request = SimpleNamespace(
        id="a.0", retries=0, delivery_info={"routing_key": "valetkey"}, get=headers.get
    )
    tasks._respond(SimpleNamespace(request=request), message)
    (span,) = spans.named("process valetkey")
    return span


def bundle(*messages: Any) -> dict[str, Any]:
    return {"v": VERSION, "ask": "bundle", "tenant": "acme", "messages": list(messages)}


def test_a_single_grant_continues_the_trace_of_its_sender(spans: RecordedSpans) -> None:
    span = process(spans, grant_message())
    parent = span.parent
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.is_remote) == (TRACE_ID, SPAN_ID, True)
    assert (span.kind, list(span.links)) == (SpanKind.CONSUMER, [])


def test_a_signed_single_grant_continues_the_trace_of_its_sender(
    spans: RecordedSpans, service: InProcessService, clock: Clock
) -> None:
    service.apply(config_with_keys(ACME_KEY))
    span = process(spans, sign_message(grant_message(), ACME_KEY, clock()))
    assert span.parent is not None
    assert span.parent.span_id == SPAN_ID


@pytest.mark.parametrize(
    "message",
    [download_chunks(4, 2)[1], bundle(grant_message(), grant_message())],
    ids=["chunk", "bundle"],
)
def test_a_chunk_or_bundle_is_linked_to_its_sender(message: Any, spans: RecordedSpans) -> None:
    span = process(spans, message)
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [SPAN_ID]


def test_the_stages_of_a_request_are_parts_of_its_span(spans: RecordedSpans) -> None:
    span = process(spans, grant_message())
    assert spans.children_of(span) == STAGES


def test_the_time_in_the_queue_is_a_part_of_the_span(spans: RecordedSpans) -> None:
    now = worker_clock.now().timestamp()
    span = process(spans, grant_message(), sent_at=int(now * 1_000) - 2_500)
    (queue,) = spans.named("queue")
    assert queue.parent == span.get_span_context()
    seconds = ((queue.end_time or 0) - (queue.start_time or 0)) / 1e9
    assert 2.4 < seconds < 12.5


@pytest.mark.parametrize(("sent_at", "seconds"), [(0, 86_400), (10**15, 0)])
def test_a_time_of_sending_that_cannot_be_is_bounded(
    sent_at: int, seconds: int, spans: RecordedSpans
) -> None:
    process(spans, grant_message(), sent_at=sent_at)
    (queue,) = spans.named("queue")
    assert (queue.end_time or 0) - (queue.start_time or 0) == seconds * 10**9


def test_a_span_says_what_was_requested_but_neither_key_nor_url(spans: RecordedSpans) -> None:
    span = process(spans, grant_message(["acme/secret.pdf"], recipient="ann"))
    assert span.attributes == {
        "messaging.system": "redis",
        "messaging.destination.name": "valetkey",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.message.id": "a.0",
        "valetkey.tenant": "acme",
        "valetkey.ask": "grants",
        "valetkey.kind": "download",
        "valetkey.items": 1,
        "valetkey.status": "issued",
    }


def test_what_is_not_authenticated_names_no_tenant(spans: RecordedSpans) -> None:
    span = process(spans, grant_message(tenant="nobody"))
    assert "valetkey.tenant" not in (span.attributes or {})


def test_a_span_of_a_failure_has_its_type_but_not_its_text(
    spans: RecordedSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise LookupError("https://bucket.example/?X-Amz-Signature=secret")

    monkeypatch.setattr("worker.issue.dispatch.resolve", lambda _reference: fail)
    with pytest.raises(tasks.TaskFailed):
        process(spans, grant_message())
    (span,) = spans.named("process valetkey")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert (span.attributes or {})["error.type"] == "LookupError"
    assert not span.events
