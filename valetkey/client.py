"""The client of the service that blocks: AsyncClient without an event loop."""

from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Self

from valetkey.aio import AnyBatch, AsyncClient, BaseClient
from valetkey.arguments import TimeLimit, checked
from valetkey.blocking import blocking, run
from valetkey.crypto.codec import Codec
from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.progress import BatchProgress
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.thread_dispatchers import ThreadDispatchers
from valetkey.delivery.transport import Servers, Transport
from valetkey.handles import BatchHandle, GrantHandle, MultipartHandle
from valetkey.request_methods import ExplainMethods
from valetkey.session import CLIENT_TIMEOUT, Timeout, new_id
from valetkey.wire import requests
from valetkey.wire.chunking import ItemInput, RowInput
from valetkey.wire.replies import Explanation
from valetkey.wire.requests import GrantRequest

Keys = Iterable[ItemInput]
Items = Iterable[RowInput]
Explainer = ExplainMethods[Explanation, Keys, Items]


@checked
class Client(BaseClient[GrantHandle, MultipartHandle, BatchHandle, Keys, Items]):
    """Requests grants from the service, and sends each request again until it is answered.

    Arguments that are None come from VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_TENANT,
    VALETKEY_REQUESTED_BY and VALETKEY_KEY or VALETKEY_KEY_FILE, or else from a running `python -m
    worker dev`. key is a private key from `valetkey keygen`, as text or as the pathlib.Path of its
    file. With a key, messages are signed, results are encrypted, and the key names the tenant.

    timeout is the longest wait of each method in seconds; None has no limit. After NoAnswer or
    BrokerUnreachable, a wait begins again `retries` times. min_left is the number of seconds that a
    result must still be valid for if it answers an earlier request, or has waited to be read, but
    at most half of the lifetime that it was issued with; by default a tenth of that. A link with
    less is issued again, charged and recorded; any other grant raises Expired. 0 hands out all
    results as they are.

    Leaving a `with` block waits until every request is answered, or raises NoAnswer after
    exit_timeout seconds; None has no limit. It warns of refusals that nobody has read. Messages are
    sent again only while one of the methods waits.

    Threads can share a client: each has connections of its own. A handle belongs to the thread that
    requested it while that thread waits. A forked process opens new connections. Raises
    NotConfigured.
    """

    def explain(self, timeout: Timeout = CLIENT_TIMEOUT) -> Explainer:
        """Ask how a request would be decided, rule by rule. Nothing is charged or signed.

        The returned object has this client's request methods, but each returns an Explanation and
        waits for it, at most `timeout` seconds: `client.explain().download("reports", "a.pdf")`.
        Only the first chunk of a batch is explained.
        """
        return ExplainMethods(partial(self._explain_request, timeout=timeout))

    usage = blocking(AsyncClient.usage)
    service = blocking(AsyncClient.service)
    status = blocking(AsyncClient.status)
    cancel = blocking(AsyncClient.cancel)

    def batch(self, batch: AnyBatch, timeout: Timeout = CLIENT_TIMEOUT) -> BatchHandle:
        """Reopen a batch by its id. Any process of the tenant can do this.

        batch is a batch id, or a handle or a grant of the batch. Decided items are signed again,
        and charged once; the handle waits for undecided ones. Links that expire too soon are issued
        again, which is charged and recorded: see min_left of Client. Raises Refused with
        batch_unknown if no chunk of the batch has reached the service yet, and otherwise as usage()
        does.
        """
        return self._batch_handle(run(self._reopen(batch, timeout)))

    def flush(self, timeout: TimeLimit | None = None) -> None:
        """Wait until the requests of all threads are answered; None has no time limit.

        All results that nobody has read yet are kept in memory. Raises NoAnswer after `timeout`
        seconds, or BrokerUnreachable if that is the cause.
        """
        self._dispatchers.flush(timeout)

    def close(self) -> None:
        """Close all connections without waiting for results: fire and forget.

        Messages that the broker loses are then not sent again, chunks that were not sent yet never
        are, and refusals are not reported. Messages that reach the service are decided, charged and
        recorded as usual; batch() returns their results later.
        """
        self._dispatchers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.flush(self._exit_timeout)
                self._warn_of_unread_refusals()
        finally:
            self.close()

    @property
    def _dispatcher(self) -> Dispatcher:
        return self._dispatchers.current()

    def _open(self) -> None:
        self._dispatchers = ThreadDispatchers(lambda: self._connect(*self._connection_parts()))
        self._dispatchers.current()  # refuses wrong settings at once

    def _connect(self, servers: Servers, codec: Codec, timer: RetransmitTimer) -> Dispatcher:
        return Dispatcher(Transport(servers), codec, timer)

    def _grant_handle(self, batch: BatchProgress) -> GrantHandle:
        return GrantHandle(self._batch_handle(batch))

    def _batch_handle(self, batch: BatchProgress) -> BatchHandle:
        return BatchHandle(self._session, batch)

    def _request_multipart(self, request: GrantRequest) -> MultipartHandle:
        request_parts = partial(self.parts, request.bucket)
        return MultipartHandle(self._request_batch(request), request_parts)

    def _explain_request(self, request: GrantRequest, timeout: Timeout) -> Explanation:
        message = requests.explain_message(request, self._config, new_id())
        return run(self._session.send(Explanation, message, timeout))
