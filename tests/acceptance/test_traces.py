"""Real workers send their spans to a collector, by OTLP over HTTP."""

from typing import Any

from tests.acceptance.conftest import Service
from tests.support.servers.spans import received_spans, recording_spans
from tests.support.servers.waiting import wait_until

STAGES = {"queue", "authenticate", "decide", "sign", "database", "commit"}


def spans_of(service: Service, trace_id: int) -> list[Any]:
    spans = received_spans(service.collector)
    return [span for span in spans if span.trace_id == trace_id.to_bytes(16, "big")]


def test_one_trace_has_the_client_the_worker_and_all_stages_of_a_grant(service: Service) -> None:
    with recording_spans() as sent, service.client() as client:
        client.download("demo", "acme/a.txt").result()
    (publish,) = sent.named("publish valetkey")
    context = publish.get_span_context()
    assert context is not None
    spans = wait_until(
        lambda: [
            found
            for found in [{span.name: span for span in spans_of(service, context.trace_id)}]
            if found.keys() >= {"process valetkey"} | STAGES
        ],
        what="the spans have arrived",
    )[0]
    process = spans["process valetkey"]
    assert process.parent_span_id == context.span_id.to_bytes(8, "big")
    assert {spans[name].parent_span_id for name in STAGES} == {process.span_id}
    assert spans["queue"].start_time_unix_nano >= (publish.start_time or 0) - 10**6
