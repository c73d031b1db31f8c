"""Traces messages and webhooks with OpenTelemetry, if its SDK is installed and set up.

Its standard settings name the exporter. Without one these functions do nothing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING, Any

import structlog
from billiard.util import Finalize

from valetkey.delivery.tracing import (
    NO_EXCEPTIONS,
    TRACEPARENT,
    child_of,
    current_context,
    find_tracer,
    linked_to,
    message_attributes,
    open_span,
)
from valetkey.wire.strict_json import decode_base64url, parse_json
from worker import clock

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext, Tracer

log = structlog.get_logger()

_NO_SPAN = nullcontext()
_MAX_SINGLE = 16_384  # characters of a signed message of one item
_STOP_SECONDS = 3.0  # to export the last spans; a worker that takes much longer is killed


@cache
def start_tracing() -> None:
    """Set up the SDK, once per process, if the standard settings name an exporter of traces.

    Call it after forking: the SDK has a thread. An application that has set it up is left alone.
    """
    has_otlp = any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ)
    names = os.environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if has_otlp else "none")
    if names == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        _start_sdk(names.split(","))
    except Exception as error:  # noqa: BLE001 - a wrong setting must not stop the service
        log.warning("tracing_not_started", problem=f"{type(error).__name__}: {error}")


def _start_sdk(exporters: list[str]) -> None:
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "valetkey"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # Child processes are killed when their worker stops: the SDK's own delay would lose 5 seconds.
    delay = float(os.environ.get("OTEL_BSP_SCHEDULE_DELAY") or 1_000)
    for name in exporters:
        exporter = _load_exporter(name.strip())()
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay))
    trace.set_tracer_provider(provider)
    Finalize(None, _stop, (provider,), exitpriority=0)  # those of a pool run no atexit


def _stop(provider: "TracerProvider") -> None:
    """Export the last spans. If nobody receives them, do not wait."""
    thread = Thread(target=provider.shutdown, daemon=True)
    thread.start()
    thread.join(_STOP_SECONDS)


def _load_exporter(name: str) -> Any:
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = "otlp_proto_" + protocol.partition("/")[0]
    found = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
    if not found:
        raise LookupError(f"no package with the exporter {name} is installed")
    return found[0].load()


def span(name: str) -> AbstractContextManager[object]:
    """Return a context in which a part of the current span, if there is any, is the current one."""
    tracer = find_tracer()
    if tracer is None or current_context() is None:
        return _NO_SPAN
    return tracer.start_as_current_span(name, **NO_EXCEPTIONS)


def annotate(attributes: Mapping[str, Any]) -> None:
    """Add attributes to the current span, if there is any."""
    if current_context() is not None:
        from opentelemetry import trace  # noqa: PLC0415

        trace.get_current_span().set_attributes(attributes)


@contextmanager
def process_span(request: Any, message: Any) -> Iterator[None]:
    """Trace the processing of a message. request is that of its Celery task.

    The span of a single grant is a child of its sender's. That of a chunk or bundle is linked to
    it: one trace of a batch would have thousands of spans.
    """
    tracer = find_tracer()
    if tracer is None:
        yield
        return
    queue = (request.delivery_info or {}).get("routing_key") or ""
    attributes = message_attributes("process", queue, request.id)
    sender = _parse_traceparent(request.get("traceparent"))
    place = child_of(sender) if _is_single(message) else linked_to([sender])
    with open_span(tracer, f"process {queue}", "CONSUMER", attributes, place):
        if not request.retries:
            _add_queue_span(tracer, request.get("sent_at"))
        yield


def _parse_traceparent(text: str | None) -> "SpanContext | None":
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    if text is None or not TRACEPARENT.fullmatch(text):
        return None
    _, trace_id, span_id, flags = (int(part, 16) for part in text.split("-"))
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _is_single(message: Any) -> bool:
    """Return true for a request of one item, or of none. The message is not authenticated yet."""
    if isinstance(message, str):
        try:
            message = parse_json(decode_base64url(message[:_MAX_SINGLE].split(".")[1]))
        except (ValueError, IndexError):
            return False
    return isinstance(message, dict) and message.get("total", 1) == 1 and "messages" not in message


def _add_queue_span(tracer: "Tracer", sent_at: int | None) -> None:
    """Record the time that a message has waited since its client sent it."""
    if sent_at is None:
        return
    now = clock.now()
    end = round(now.timestamp() * 1e3)
    begin = end - round(clock.seconds_since(sent_at, now) * 1e3)
    tracer.start_span("queue", start_time=begin * 10**6).end(end * 10**6)


def webhook_span(tenant: str, endpoint: str) -> AbstractContextManager[object]:
    """Trace one attempt to deliver a webhook. The span never has its URL."""
    tracer = find_tracer()
    if tracer is None:
        return _NO_SPAN
    names = {"valetkey.tenant": tenant, "valetkey.endpoint": endpoint}
    attributes = names | {"http.request.method": "POST"}
    return open_span(tracer, "webhook", "CLIENT", attributes, child_of(None))
