"""Spans of OpenTelemetry: those of this process, and those that a collector received by HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.servers.webhook_receiver import WebhookReceiver


class RecordedSpans:
    """The spans of this process, once they have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def children_of(self, parent: ReadableSpan) -> list[str]:
        """Return the names of a span's children, in the order in which they began."""
        children = [span for span in self.all() if span.parent == parent.get_span_context()]
        return [span.name for span in sorted(children, key=lambda span: span.start_time or 0)]


@contextmanager
def recording_spans() -> Iterator[RecordedSpans]:
    """Set up the SDK as an application does, with spans that stay in memory."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)  # it can be set only once
        yield RecordedSpans(exporter)


def received_spans(collector: WebhookReceiver) -> list[Any]:
    """Return the spans that a collector has received, as the protocol's messages."""
    requests = [ExportTraceServiceRequest.FromString(body) for body in tuple(collector.bodies)]
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
