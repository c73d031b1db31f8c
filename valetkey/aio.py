"""The client of the service for asyncio, and what it shares with the one that blocks."""

import asyncio
import random
import warnings
from abc import abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NoReturn, Self, Unpack
from uuid import UUID
from weakref import WeakSet

from valetkey.arguments import NOT_NEGATIVE, TimeLimit, checked
from valetkey.config import load_config
from valetkey.crypto.codec import Codec
from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.async_transport import AsyncTransport
from valetkey.delivery.dispatcher import BaseDispatcher
from valetkey.delivery.pending_request import DEFAULT_TIMEOUT
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.transport import Servers, client_servers
from valetkey.errors import Refused
from valetkey.handles import (
    AsyncBatchHandle,
    AsyncGrantHandle,
    AsyncMultipartHandle,
    BaseBatchHandle,
    BaseGrantHandle,
    read_batch_id,
    read_grant_id,
    read_subject,
)
from valetkey.request_methods import (
    BatchResult,
    ExplainMethods,
    Items,
    Keys,
    MultipartResult,
    RequestMethods,
    SingleResult,
)
from valetkey.session import CLIENT_TIMEOUT, Options, Session, Timeout, new_id
from valetkey.wire import requests
from valetkey.wire.chunking import (
    ChunkMessageBuilder,
    ItemInput,
    RowInput,
    chunk_slices,
    uuid7_time,
)
from valetkey.wire.options import BatchIdOption, ReissueOptions
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import (
    BatchState,
    Cancelled,
    Explanation,
    Grant,
    ServiceInfo,
    Usage,
    UseStates,
)
from valetkey.wire.requests import GrantRequest

AsyncKeys = Iterable[ItemInput] | AsyncIterable[ItemInput]
AsyncItems = Iterable[RowInput] | AsyncIterable[RowInput]
AnyGrant = Annotated[
    str | UUID | Grant | BaseGrantHandle[BaseBatchHandle], "a Grant, its handle or its id"
]
"""A grant, its handle, or the id of one of them."""
AnyBatch = Annotated[AnyGrant | BaseBatchHandle, "a batch id, a handle, or a Grant or its id"]
"""A batch: its handle or id, or a grant of it."""


@checked
class BaseClient(RequestMethods[SingleResult, MultipartResult, BatchResult, Keys, Items]):
    """The part of Client and AsyncClient that does not wait."""

    @checked
    def __init__(  # noqa: PLR0913 - each has its own default
        self,
        broker_url: str | None = None,
        result_url: str | None = None,
        tenant: str | None = None,
        requested_by: str | None = None,
        *,
        key: str | Path | None = None,
        timeout: TimeLimit | None = DEFAULT_TIMEOUT,
        retries: Annotated[int, NOT_NEGATIVE] = 0,
        min_left: TimeLimit | None = None,
        exit_timeout: TimeLimit | None = 60.0,
    ) -> None:
        self._config = load_config(
            {
                "broker_url": broker_url,
                "result_url": result_url,
                "tenant": tenant,
                "requested_by": requested_by,
                "key": key,
            }
        )
        self._options = Options(timeout, retries, min_left)
        self._exit_timeout = exit_timeout
        self._unread_refusals: dict[str, Refusal] = {}
        self._last_session: Session | None = None
        self._open()

    def with_options(
        self,
        *,
        requested_by: str | None = None,
        timeout: Timeout = CLIENT_TIMEOUT,
        retries: Annotated[int, NOT_NEGATIVE] | None = None,
        min_left: TimeLimit | None = None,
    ) -> Self:
        """Return this client with other options, over the same connections.

        What is left out stays as it is. Close one of the two: the other is then closed as well.
        """
        old = self._options
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        changed._config = replace(
            self._config, requested_by=requested_by or self._config.requested_by
        )
        changed._last_session = None
        changed._options = Options(
            old.timeout if timeout is CLIENT_TIMEOUT else timeout,
            old.retries if retries is None else retries,
            old.min_left if min_left is None else min_left,
        )
        return changed

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a client has connections and cannot be copied or pickled: create one in each process"
        )

    def reissue(
        self,
        grant: AnyGrant,
        *,
        batch_id: BatchIdOption | None = None,
        **options: Unpack[ReissueOptions],
    ) -> SingleResult:
        """Request a fresh grant of the same object, under the terms of an earlier one.

        grant is the earlier grant, its handle or its id: a download, an upload or a put of the
        tenant, expired or not. The new grant is charged and recorded as any other; the audit log
        says which one it was issued again for. batch_id is a UUIDv7 that you create, to repeat the
        request after a crash. Raises ValueError for a text that is no grant id.
        """
        name = None if batch_id is None else str(batch_id)
        return self._grant_handle(self._session.reissue(read_grant_id(grant), options, name))

    async def _reopen(self, batch: AnyBatch, timeout: Timeout) -> BatchProgress:
        batch_id = read_batch_id(batch)
        state = await self._session.ask(BatchState, "batch", timeout, batch=batch_id)
        messages = requests.reopen_messages(self._config, new_id(), state)
        return ReopenedBatchProgress(state, messages)

    _begin_of = staticmethod(uuid7_time)  # replaced where a test lets time pass

    @property
    def _session(self) -> Session:
        session, dispatcher = self._last_session, self._dispatcher
        if session is None or session.dispatcher is not dispatcher:
            session = Session(
                self._config, dispatcher, self._options, self._unread_refusals, self._begin_of
            )
            self._last_session = session
        return session

    @property
    @abstractmethod
    def _dispatcher(self) -> BaseDispatcher:
        """The dispatcher that this thread uses."""

    @abstractmethod
    def _open(self) -> None:
        """Create the first dispatcher."""

    @abstractmethod
    def _connect(self, servers: Servers, codec: Codec, timer: RetransmitTimer) -> BaseDispatcher:
        """Return a new dispatcher for these servers."""

    def _connection_parts(self) -> tuple[Servers, Codec, RetransmitTimer]:
        config = self._config
        return client_servers(config), Codec(config.key), RetransmitTimer(random.random)

    def _warn_of_unread_refusals(self) -> None:
        """Warn of refusals that nobody has read, before the client is forgotten."""
        unread = self._unread_refusals
        if unread:
            batch_id, refusal = next(iter(unread.items()))
            warnings.warn(
                f"nobody has read the refusals of {len(unread):,} "
                f"{'request' if len(unread) == 1 else 'requests'}; "
                f"the first, of the batch {batch_id}: {Refused(refusal)}",
                RuntimeWarning,
                stacklevel=3,
            )

    @abstractmethod
    def _grant_handle(self, batch: BatchProgress) -> SingleResult:
        """Return the handle of a batch of one grant."""

    @abstractmethod
    def _batch_handle(self, batch: BatchProgress) -> BatchResult:
        """Return the handle of a batch."""

    def _request_grant(self, request: GrantRequest) -> SingleResult:
        return self._grant_handle(self._start(request))

    def _request_batch(self, request: GrantRequest) -> BatchResult:
        return self._batch_handle(self._start(request))

    def _start(self, request: GrantRequest) -> BatchProgress:
        return self._session.start(request)


AnyClient = BaseClient[Any, Any, Any, Any, Any]


@checked
class AsyncClient(
    BaseClient[AsyncGrantHandle, AsyncMultipartHandle, AsyncBatchHandle, AsyncKeys, AsyncItems]
):
    """The client for asyncio: one for a whole application, shared by all its coroutines.

    Its arguments, configuration and results are those of Client. Its request methods return a
    handle at once, to await or to iterate. One task receives the results, however many coroutines
    wait, and sends messages again even if none has waited yet. A request whose last wait is
    cancelled is given up, as after a timeout. The keys of a batch may come from an async iterable
    if total is their number. Other iterables are read in the event loop, so they must not block.

    A client belongs to the event loop that it is first used in. Leaving an `async with` block waits
    until every request is answered, or raises NoAnswer after exit_timeout seconds; None has no
    limit. Raises NotConfigured.
    """

    def explain(
        self, timeout: Timeout = CLIENT_TIMEOUT
    ) -> ExplainMethods[Awaitable[Explanation], AsyncKeys, AsyncItems]:
        """Ask how a request would be decided, rule by rule. Nothing is charged or signed.

        The returned object has this client's request methods, but each returns an Explanation to
        await, for at most `timeout` seconds: `await client.explain().download("reports", "a.pdf")`.
        Only the first chunk of a batch is explained.
        """
        return ExplainMethods(partial(self._explain_request, timeout=timeout))

    async def usage(self: AnyClient, timeout: Timeout = CLIENT_TIMEOUT) -> list[QuotaState]:
        """Return the state of the tenant's quotas.

        Raises Refused, and after `timeout` seconds NoAnswer, or BrokerUnreachable if that is the
        cause.
        """
        return (await self._session.ask(Usage, "usage", timeout)).quotas

    async def service(self: AnyClient, timeout: Timeout = CLIENT_TIMEOUT) -> ServiceInfo:
        """Return the release, versions, kinds and limits of the service. Raises as usage() does."""
        return await self._session.ask(ServiceInfo, "service", timeout)

    async def batch(self, batch: AnyBatch, timeout: Timeout = CLIENT_TIMEOUT) -> AsyncBatchHandle:
        """Reopen a batch by its id. Any process of the tenant can do this.

        The result and errors are those of Client.batch.
        """
        return self._batch_handle(await self._reopen(batch, timeout))

    async def status(
        self: AnyClient,
        subject: AnyBatch,
        *,
        probe: bool = True,
        timeout: Timeout = CLIENT_TIMEOUT,
    ) -> UseStates:
        """Return the state of a grant, or the numbers of a batch's items by state.

        subject is a grant, a handle, a grant id or a batch id. For one grant, the result has the
        state; for a batch, it has counts. Any process of the tenant can ask.

        With probe, the service first asks storage for the objects of upload slots without a known
        use: of a grant, or of a batch of at most 50 items. Without it, the service reports only the
        uses that it knows. Raises Refused, and after `timeout` seconds NoAnswer, or
        BrokerUnreachable if that is the cause; ValueError for a text that is no id, and TypeError
        for a subject of another type.
        """
        batch_id, item = read_subject(subject)
        fields = {"items": None if item is None else [item], "probe": probe}
        return await self._session.ask(UseStates, "status", timeout, batch=batch_id, **fields)

    async def cancel(
        self: AnyClient,
        batch: AnyBatch,
        reason: str | None = None,
        timeout: Timeout = CLIENT_TIMEOUT,
        *,
        requested_by: str | None = None,
        abort_uploads: bool = False,
    ) -> Cancelled:
        """Cancel a batch: grant no further items, and release what is reserved for them.

        batch is a handle, a grant of the batch or a batch id. A handle sends no more chunks, and
        the items of unsent chunks come out refused. Granted items remain valid and charged, so
        cancelling a batch that was granted completely has no effect. Cancelling twice is no error.
        Raises as usage() does.

        With abort_uploads, the service also aborts the granted multipart uploads that are still
        unfinished, and gives their bytes back to the quotas within minutes. A service of an earlier
        release refuses this as unknown_field.
        """
        handle = batch.batch if isinstance(batch, BaseGrantHandle) else batch
        if isinstance(handle, BaseBatchHandle):
            handle.stop()
        return await self._session.ask(
            Cancelled,
            "cancel",
            timeout,
            batch=read_batch_id(batch),
            requested_by=requested_by or self._config.requested_by,
            reason=reason,
            abort_uploads=abort_uploads or None,
        )

    async def flush(self: AnyClient, timeout: TimeLimit | None = None) -> None:
        """Wait until every request is answered; None has no time limit.

        All results that nobody has read yet are kept in memory. Raises NoAnswer after `timeout`
        seconds, or BrokerUnreachable if that is the cause. AsyncClient raises the error of a failed
        request that nobody awaited, too.
        """
        await self._dispatcher.flush(timeout)

    async def close(self) -> None:
        """Close the connections without waiting for results: fire and forget.

        The consequences are those of Client.close. Coroutines that still wait get NoAnswer. If this
        is cancelled, it closes all connections first, which takes a few seconds at most.
        """
        closing = asyncio.create_task(self._close(), name="valetkey-close")
        try:
            await asyncio.shield(closing)
        finally:  # nobody else can close what a cancelled call leaves open
            await asyncio.shield(closing)

    async def _close(self) -> None:
        for feed in list(self._feeds):
            await feed.close()
        await self._dispatcher.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self.flush(self._exit_timeout)
                self._warn_of_unread_refusals()
        finally:
            await self.close()

    def _open(self) -> None:
        self._feeds: WeakSet[MessageFeed] = WeakSet()
        self._only_dispatcher = self._connect(*self._connection_parts())

    @property
    def _dispatcher(self) -> AsyncDispatcher:
        return self._only_dispatcher

    def _connect(self, servers: Servers, codec: Codec, timer: RetransmitTimer) -> AsyncDispatcher:
        return AsyncDispatcher(AsyncTransport(servers), codec, timer)

    def _grant_handle(self, batch: BatchProgress) -> AsyncGrantHandle:
        return AsyncGrantHandle(self._batch_handle(batch))

    def _batch_handle(self, batch: BatchProgress) -> AsyncBatchHandle:
        return AsyncBatchHandle(self._session, batch)

    def _request_multipart(self, request: GrantRequest) -> AsyncMultipartHandle:
        request_parts = partial(self.parts, request.bucket)
        return AsyncMultipartHandle(self._request_batch(request), request_parts)

    def _start(self, request: GrantRequest) -> BatchProgress:
        if not isinstance(request.items, AsyncIterable):
            return super()._start(request)
        header, _ = request.header(self._config, new_id())
        chunks = async_chunk_messages(header, request.items, request.first_chunk)
        feed = MessageFeed(chunks, self._dispatcher.wake)
        self._feeds.add(feed)
        return self._session.start_batch(request, header, feed)

    async def _explain_request(self, request: GrantRequest, timeout: Timeout) -> Explanation:
        if isinstance(request.items, AsyncIterable) and request.total is not None:
            first_items = await _take(aiter(request.items), request.chunk_size + 1)
            request = replace(request, items=first_items)
        message = requests.explain_message(request, self._config, new_id())
        return await self._session.send(Explanation, message, timeout)


class MessageFeed(Iterator[PendingMessage | None]):
    """Iterates over an async generator without waiting: None if the next message is not ready.

    on_ready is called when a message is ready. Reading continues after the batch is given up,
    because it may be resumed. Only close() stops it, which ends the caller's iterable.
    """

    def __init__(
        self, messages: AsyncGenerator[PendingMessage, None], on_ready: Callable[[], None]
    ) -> None:
        self._messages = messages
        self._on_ready = on_ready
        self._read_task: asyncio.Task[PendingMessage] | None = None
        self._is_closed = False

    def __next__(self) -> PendingMessage | None:
        if self._is_closed:  # the client that closes the feed fails its request as well
            return None
        if self._read_task is None:
            self._read_task = asyncio.get_running_loop().create_task(self._read())
            self._read_task.add_done_callback(self._finish_read)
        if not self._read_task.done():
            return None
        task, self._read_task = self._read_task, None
        if task.cancelled():  # an error of the items: the reader itself is not cancelled
            raise RuntimeError("the task that the items wait for was cancelled")
        return task.result()

    async def close(self) -> None:
        """Stop reading, and close the generator."""
        self._is_closed = True
        if self._read_task is not None:
            self._read_task.cancel()
            await asyncio.wait([self._read_task])
        await self._messages.aclose()

    async def _read(self) -> PendingMessage:
        return await anext(self._messages)

    def _finish_read(self, task: asyncio.Task[PendingMessage]) -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved; __next__ raises it if it is called again
        self._on_ready()


async def async_chunk_messages(
    header: Mapping[str, Any], items: AsyncIterable[ItemInput], first_chunk: int = 0
) -> AsyncGenerator[PendingMessage, None]:
    """Yield the messages of a batch; the async form of chunking.chunk_messages."""
    iterator, chunker = aiter(items), ChunkMessageBuilder(header)
    for chunk in chunk_slices(header, first_chunk):
        chunk_items = await _take(iterator, chunk.item_count)
        has_more = chunk.is_last and bool(await _take(iterator, 1))
        yield chunker.build_message(chunk, chunk_items, has_more=has_more)


async def _take(items: AsyncIterator[ItemInput], count: int) -> list[ItemInput]:
    taken: list[ItemInput] = []
    while len(taken) < count:
        try:
            taken.append(await anext(items))
        except StopAsyncIteration:
            break
    return taken
