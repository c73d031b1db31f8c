"""Producers of the real service and of the fake one, each blocking and for asyncio."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isasyncgen, isawaitable
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, tenant_config
from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.databases import migrated_file, open_engine
from valetkey import AsyncClient, Client
from valetkey.handles import BaseBatchHandle, BaseGrantHandle
from valetkey.request_methods import ExplainMethods
from valetkey.testing import AsyncFakeClient, FakeClient, Policy, Quota
from valetkey.testing.fake_service import FakeService
from worker.aws.s3_clients import S3Clients
from worker.issue.dispatch import describe_service
from worker.rules import tenant_config as service_config
from worker.rules.tenant_config import Bucket, TenantConfig

LIMIT = 60
FAKE_POLICY = Policy(
    prefixes=POLICY.prefixes,
    kinds=POLICY.kinds,
    max_expires_in=POLICY.max_expires_in,
    max_size=POLICY.max_size,
    content_types=POLICY.content_types,
    overwrite=False,
    max_batch=10_000,
)
FAKES: dict[str, Any] = {
    "min_left": 0,  # the clock of the services is behind that of the client
    "policy": {"demo": FAKE_POLICY},
    "quotas": [Quota(metric="grants", window="day", limit=LIMIT, warn_at=50)],
}


class Blocking:
    """A client or a handle, without await: asyncio's parts run in a loop of the test."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self.target = target
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        return (lambda *args, **kw: self._call(value, args, kw)) if callable(value) else value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._call(self.target.results, (), {}))

    def _call(self, method: Callable[..., Any], args: Any, options: Any) -> Any:
        args = [each.target if isinstance(each, Blocking) else each for each in args]

        async def call() -> Any:
            result = method(*args, **options)
            if isasyncgen(result):
                return [item async for item in result]
            is_handle = isinstance(result, BaseGrantHandle)
            return await result if isawaitable(result) and not is_handle else result

        result = self._runner.run(call())
        is_object = isinstance(result, BaseGrantHandle | BaseBatchHandle | ExplainMethods)
        return Blocking(result, self._runner) if is_object else result


@contextmanager
def real_service(
    broker: str, folder: Path, clock: services.Clock, endpoint: str = "https://storage.invalid"
) -> Iterator[None]:
    """Run the real service, with the policy and the quotas of the fake one."""
    quota = service_config.Quota("grants", "day", LIMIT, warn_at=50)
    config = tenant_config(quota, max_batch=10_000)
    bucket = Bucket("demo", "demo", "us-east-1", "path", endpoint)
    with open_engine(migrated_file(folder / "valetkey.db")) as engine:
        service = services.build_service(engine, S3Clients(), clock)
        service.apply(TenantConfig({"demo": bucket}, config.tenants))
        with running_fake_service(
            broker, decide=lambda raw: service.respond(raw).sent, describe=_describe
        ):
            yield


def _describe(message: dict[str, Any]) -> dict[str, Any]:
    return describe_service(message["tenant"]).model_dump(mode="json")


@pytest.fixture
def at_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of both services, which stands still."""
    monkeypatch.setattr(FakeService, "now", lambda _: clock())
    return clock


@pytest.fixture(params=["service", "fake", "async service", "async fake"])
def producer(
    request: pytest.FixtureRequest,
    broker: str,
    at_clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A client of the tenant acme."""
    if request.param == "fake":
        client = FakeClient(**FAKES)
        yield client
        client.close()
    elif request.param == "async fake":
        with asyncio.Runner() as runner:
            fake = Blocking(AsyncFakeClient(**FAKES), runner)
            yield fake
            fake.close()
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        with real_service(broker, tmp_path, at_clock):
            yield from _real_client(broker, is_async=request.param.startswith("async"))


def _real_client(broker: str, *, is_async: bool) -> Iterator[Any]:
    if not is_async:
        client = Client(broker, tenant="acme", requested_by="test", min_left=0)
        yield client
        client.close()
        return
    with asyncio.Runner() as runner:
        blocking = Blocking(AsyncClient(broker, None, "acme", "test", min_left=0), runner)
        yield blocking
        blocking.close()
