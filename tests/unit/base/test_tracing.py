"""The SDK of OpenTelemetry is set up by its standard settings, and never stops the service."""

import os
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from structlog.testing import capture_logs

from valetkey.delivery.tracing import find_tracer
from worker.base import tracing
from worker.base.tracing import start_tracing


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(
        trace,
        "set_tracer_provider",
        lambda set_up: monkeypatch.setattr(trace, "_TRACER_PROVIDER", set_up),
    )
    monkeypatch.setattr(tracing, "Finalize", lambda *_, **__: None)
    start_tracing.cache_clear()
    yield
    start_tracing.cache_clear()


def start(monkeypatch: pytest.MonkeyPatch, **environ: str) -> trace.TracerProvider | None:
    """Set up the SDK with these settings; return it, or None if nothing is traced."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    start_tracing()
    return None if find_tracer() is None else trace.get_tracer_provider()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_SERVICE_NAME": "grants"},
    ],
)
def test_nothing_is_traced_without_an_exporter(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        assert start(monkeypatch, **environ) is None
    assert not logs


def test_without_its_packages_nothing_is_traced_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with capture_logs() as logs:
        start_tracing()
    assert "ModuleNotFoundError" in logs[0]["problem"]
    assert find_tracer() is None


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"},
    ],
)
def test_a_setting_that_names_an_exporter_starts_the_sdk(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = start(monkeypatch, **environ)
    assert provider is not None
    assert provider.resource.attributes["service.name"] == "valetkey"  # type: ignore[attr-defined]
    provider.shutdown()  # type: ignore[attr-defined]


def test_the_service_has_the_name_that_the_settings_give(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = start(
        monkeypatch, OTEL_TRACES_EXPORTER="console", OTEL_RESOURCE_ATTRIBUTES="service.name=grants"
    )
    assert provider is not None
    assert provider.resource.attributes["service.name"] == "grants"  # type: ignore[attr-defined]
    provider.shutdown()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "jaeger"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_a_wrong_setting_is_logged_and_nothing_is_traced(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        assert start(monkeypatch, **environ) is None
    assert [log["event"] for log in logs] == ["tracing_not_started"]


def test_an_application_that_has_set_up_its_sdk_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = trace.NoOpTracerProvider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", own)
    assert start(monkeypatch, OTEL_TRACES_EXPORTER="console") is own
