"""Spans of OpenTelemetry, if the application has set up its SDK. Otherwise these do nothing.

A span never has the text of an exception, which may quote a secret: only the name of its type.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from valetkey.wire import RELEASE

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider

TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""The header that continues a trace in another process (W3C Trace Context, version 00)."""

NO_EXCEPTIONS: Mapping[str, Any] = {"record_exception": False, "set_status_on_exception": False}
"""Options of a span without the texts of exceptions."""

Kind = Literal["CLIENT", "PRODUCER", "CONSUMER"]


def find_tracer() -> "Tracer | None":
    """Return the tracer of this process, or None if nothing is traced."""
    if "opentelemetry.trace" not in sys.modules:  # importing it takes 30 ms, and sets up nothing
        return None
    from opentelemetry import trace  # noqa: PLC0415

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else _create_tracer(provider)


@cache
def _create_tracer(provider: "TracerProvider") -> "Tracer":
    return provider.get_tracer("valetkey", RELEASE)


def current_context() -> "SpanContext | None":
    """Return the context of the caller's current span, if there is one."""
    if find_tracer() is None:
        return None
    from opentelemetry import trace  # noqa: PLC0415

    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def child_of(origin: "SpanContext | None") -> dict[str, Any]:
    """Return the place of a span below another one, or at the beginning of a trace."""
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context  # noqa: PLC0415

    if origin is None:
        return {"context": Context()}
    return {"context": set_span_in_context(NonRecordingSpan(origin), Context())}


def linked_to(origins: Iterable["SpanContext | None"]) -> dict[str, Any]:
    """Return the place of a span that begins a trace, and has links to others."""
    from opentelemetry.trace import Link  # noqa: PLC0415

    by_id = {origin.span_id: origin for origin in origins if origin is not None}
    return child_of(None) | {"links": [Link(origin) for origin in by_id.values()]}


@contextmanager
def open_span(
    tracer: "Tracer", name: str, kind: Kind, attributes: Mapping[str, Any], place: dict[str, Any]
) -> Iterator["Span"]:
    """Make a span the current one while the block runs."""
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

    with tracer.start_as_current_span(
        name, kind=SpanKind[kind], attributes=attributes, **NO_EXCEPTIONS, **place
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__name__)
            raise


def message_attributes(operation: str, queue: str, task_id: str) -> dict[str, Any]:
    """Return the attributes of a message by OpenTelemetry's conventions, which have no Celery."""
    return {
        "messaging.system": "redis",
        "messaging.destination.name": queue,
        "messaging.operation.type": "send" if operation == "publish" else operation,
        "messaging.operation.name": operation,
        "messaging.message.id": task_id,
    }


def content_attributes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tenant, the kind and the size of a valid message, and nothing else of it."""
    attributes = {
        "valetkey.tenant": content["tenant"],
        "valetkey.ask": content.get("ask", "grants"),
    }
    if "messages" in content:
        return attributes | {"messaging.batch.message_count": len(content["messages"])}
    if "grant" in content:
        attributes["valetkey.kind"] = content["grant"]["kind"]
    return attributes | {"valetkey.items": len(content.get("items", ()))}


@contextmanager
def publish_span(
    queue: str, task_id: str, content: Mapping[str, Any], origins: Sequence["SpanContext | None"]
) -> Iterator[Mapping[str, str]]:
    """Trace the sending of a message, and return the headers that continue the trace.

    origins are the contexts in which its requests were made. A bundle is linked to them.
    """
    tracer = find_tracer()
    if tracer is None:
        yield {}
        return
    attributes = message_attributes("publish", queue, task_id) | content_attributes(content)
    place = linked_to(origins) if "messages" in content else child_of(next(iter(origins), None))
    with open_span(tracer, f"publish {queue}", "PRODUCER", attributes, place) as span:
        context = span.get_span_context()
        traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        yield {"traceparent": traceparent} if context.is_valid else {}
