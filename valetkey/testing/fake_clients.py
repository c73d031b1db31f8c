"""The fake clients: the real ones over a transport that leads to a service in this process."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from queue import Empty, SimpleQueue
from typing import Annotated, Any
from urllib.parse import urlsplit

from valetkey.aio import AnyGrant, AsyncClient
from valetkey.arguments import NOT_NEGATIVE, Rule, TimeLimit, checked
from valetkey.client import Client
from valetkey.crypto.codec import Codec
from valetkey.crypto.keys import dump_private_key, generate_key
from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.async_transport import AsyncTransport
from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.transport import Results, Servers, Transport
from valetkey.errors import BrokerUnreachable
from valetkey.handles import BaseBatchHandle, read_subject
from valetkey.testing.fake_service import FakeService, Request
from valetkey.testing.policy import Policy, Quota
from valetkey.wire.refusals import Code, QuotaState, Refusal

_URL = "redis://fake.invalid"  # never opened
_EVERYTHING = Policy()
_STORAGE_URL = "https://storage.invalid"


def _is_server(url: str) -> bool:
    address = urlsplit(url)
    has_path = address.path.strip("/") or address.query
    return address.scheme in {"http", "https"} and bool(address.netloc) and not has_path


class FakeTransport(Transport):
    """Takes messages to a fake service, and its results back."""

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self._results: SimpleQueue[tuple[str, str]] = SimpleQueue()

    async def send(self, task_id: str, argument: dict[str, Any] | str, *_: Any) -> None:
        """Hand a message to the service."""
        _send(self._service, task_id, argument, lambda *result: self._results.put(result))

    async def listen(self, seconds: float | None) -> Results:
        """Wait for a result; return it, or nothing after some seconds."""
        with suppress(Empty):
            return [self._results.get(timeout=seconds)]
        return []

    async def look_up(self, task_ids: Sequence[str]) -> Results:  # noqa: ARG002 - none is lost
        """Return nothing: no result is lost."""
        return []

    async def clear(self, task_id: str) -> None:
        """Do nothing: no result is unusable."""

    async def unsubscribe(self, task_ids: Sequence[str]) -> None:
        """Do nothing: there are no subscriptions."""

    async def is_waiting(self, task_id: str) -> bool | None:
        """Return true for a message that the service has not answered."""
        return self._service.is_waiting(task_id)

    async def withdraw(self, task_ids: Sequence[str]) -> None:
        """Withdraw messages that nobody waits for."""
        self._service.withdraw(task_ids)

    async def close(self) -> None:
        """Do nothing: there are no connections."""


class AsyncFakeTransport(AsyncTransport):
    """Takes messages to a fake service, and its results back, in an event loop."""

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self._results: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._woken = asyncio.Event()

    async def send(self, task_id: str, argument: dict[str, Any] | str, *_: Any) -> None:
        """Hand a message to the service."""
        loop = asyncio.get_running_loop()

        def deliver(*result: str) -> None:
            self._results.put((result[0], result[1]))
            if not loop.is_closed():  # another thread may let the service resume
                loop.call_soon_threadsafe(self.wake)

        _send(self._service, task_id, argument, deliver)

    async def listen(self, seconds: float | None) -> Results:
        """Wait for results; return them, or nothing after some seconds or wake()."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if not self._results.empty() else seconds):
                await self._woken.wait()
        self._woken.clear()
        return [self._results.get() for _ in range(self._results.qsize())]

    def wake(self) -> None:
        """End the current call of listen(), or else the next one at once."""
        self._woken.set()

    look_up = FakeTransport.look_up
    clear = FakeTransport.clear
    unsubscribe = FakeTransport.unsubscribe
    is_waiting = FakeTransport.is_waiting
    withdraw = FakeTransport.withdraw
    close = FakeTransport.close


def _send(service: FakeService, task_id: str, argument: Any, deliver: Any) -> None:
    if service.is_unreachable:
        raise BrokerUnreachable("cannot use the broker: the test made it unreachable")
    service.receive(task_id, argument, deliver)


@cache
def _key_of(tenant: str) -> str:
    return dump_private_key(generate_key(f"{tenant}/fake"))


@checked
class FakeControls:
    """The script and the record of a fake client.

    policy is that of every bucket profile, or a mapping of those that the tenant may use. quotas
    are the tenant's. storage_url is the server in the URLs of grants. peer is a fake client whose
    service this one uses as well, as another process does. Other options are those of the client.
    """

    @checked
    def __init__(  # noqa: PLR0913 - each has its own default
        self,
        tenant: str = "acme",
        requested_by: str = "test",
        *,
        policy: Policy | Mapping[str, Policy] = _EVERYTHING,
        quotas: Sequence[Quota] = (),
        storage_url: Annotated[str, Rule("like http://127.0.0.1:9000", _is_server)] = _STORAGE_URL,
        peer: "FakeControls | None" = None,
        **options: Any,
    ) -> None:
        own = (policy, tuple(quotas), storage_url) != (_EVERYTHING, (), _STORAGE_URL)
        if own and peer is not None:
            raise ValueError("policy, quotas and storage_url are those of the peer")
        self._service: FakeService = (
            FakeService(storage_url) if peer is None else peer._service  # noqa: SLF001 - of this class
        )
        if peer is None:
            self.set_policy(policy, quotas)
        # With a key, the client reads no setting from the environment. It is not used.
        super().__init__(_URL, _URL, tenant, requested_by, key=_key_of(tenant), **options)  # type: ignore[call-arg]  # Client's

    def _begin_of(self, id_: str) -> float:
        return self._service.begin_of(id_)

    @property
    def requests(self) -> list[Request]:
        """The requests that the service has received, in order."""
        return self._service.requests

    def set_policy(
        self, policy: Policy | Mapping[str, Policy] = _EVERYTHING, quotas: Sequence[Quota] = ()
    ) -> None:
        """Replace the policy and the quotas: requests are decided by these from now on."""
        pairs = [(None, policy)] if isinstance(policy, Policy) else policy.items()
        policies = dict[str | None, Policy](pairs)
        self._service.policies, self._service.quotas = policies, [*quotas]

    def refuse(self, key: str | None = None, code: str = Code.KEY_OUTSIDE_PREFIX) -> None:
        """Refuse items of this object key, or without a key every request, from now on.

        Raises ValueError for a code that the service does not have.
        """
        field, code = "" if key is None else "key", Code(code)
        refusal = Refusal(code=code, field=field, message="refused by the test", key=key)
        if code is Code.QUOTA_EXCEEDED:
            quota = QuotaState(metric="grants", window="live", limit=0, used=0, asked=1)
            refusal = refusal.model_copy(update={"quota": quota, "limit": 0})
        self._service.refusals[key] = refusal

    def allow(self, key: str | None = None) -> None:
        """Undo refuse() with the same key."""
        self._service.refusals.pop(key, None)

    def stall(self) -> None:
        """Let the service receive requests, but answer none: waits end with NoAnswer."""
        self._service.is_stalled = True

    def lose_broker(self) -> None:
        """Let the broker be unreachable: requests end with BrokerUnreachable."""
        self._service.is_unreachable = True

    def resume(self) -> None:
        """End what stall() and lose_broker() did: the service answers, also what waits."""
        self._service.resume()

    def expire(self, subject: AnyGrant | BaseBatchHandle | None = None) -> None:
        """End the grants of a batch, or all grants, now. What the client does then: see min_left.

        subject is a grant, a handle, a grant id or a batch id.
        """
        self._service.expire(None if subject is None else read_subject(subject).batch_id)

    def advance(self, seconds: TimeLimit) -> None:
        """Let time pass for what was requested, past the end of grants or of a quota's window.

        All that happened is so much longer ago, in whole seconds. Grants that a test holds do not
        change.
        """
        self._service.advance(seconds)

    def store(
        self,
        key: str | None = None,
        size: Annotated[int, NOT_NEGATIVE] | None = None,
        content_type: str | None = None,
    ) -> None:
        """Let storage have the object of an upload's key, or without a key of every upload.

        It is that of the newest grant for the key, or else of the next one. Without a size, it has
        the size of the grant. So stored() returns, and status() is `used`.
        """
        self._service.store(key, size, content_type)


class FakeClient(FakeControls, Client):
    """A Client whose service is in this process, and answers as a test configures it.

    It needs no settings, no Redis and no storage. Grants have real signatures of test credentials.
    """

    def _connect(self, servers: Servers, codec: Codec, timer: RetransmitTimer) -> Dispatcher:  # noqa: ARG002 - nothing is signed or sealed
        return Dispatcher(FakeTransport(self._service), Codec(None), timer)


class AsyncFakeClient(FakeControls, AsyncClient):
    """An AsyncClient whose service is in this process: as FakeClient, for asyncio."""

    def _connect(self, servers: Servers, codec: Codec, timer: RetransmitTimer) -> AsyncDispatcher:  # noqa: ARG002 - nothing is signed or sealed
        return AsyncDispatcher(AsyncFakeTransport(self._service), Codec(None), timer)
