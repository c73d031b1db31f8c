"""The client of the service that blocks: AsyncClient without an event loop."""

from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Self

from valetkey.aio import AsyncClient, BaseClient
from valetkey.blocking import blocking, run
from valetkey.crypto.codec import Codec
from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.pending_request import DEFAULT_TIMEOUT
from valetkey.delivery.progress import BatchProgress
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.transport import Servers, Transport
from valetkey.handles import BatchHandle, GrantHandle, MultipartHandle
from valetkey.request_methods import ExplainMethods
from valetkey.session import new_id as new_id  # noqa: PLC0414 - where programs import it
from valetkey.wire import requests
from valetkey.wire.messages import Item
from valetkey.wire.replies import Explanation
from valetkey.wire.requests import GrantRequest

Keys = Iterable[str | Item]
Items = Iterable[Item]
Explainer = ExplainMethods[Explanation, Keys, Items]


class Client(BaseClient[GrantHandle, MultipartHandle, BatchHandle, Keys, Items]):
    """Requests grants from the service, and sends each request again until it is answered.

    Arguments that are None come from VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_TENANT,
    VALETKEY_REQUESTED_BY and VALETKEY_KEY or VALETKEY_KEY_FILE, or else from a running `python -m
    worker dev`. key is a private key from `valetkey keygen`, as text or as the pathlib.Path of its
    file. With a key, messages are signed, results are encrypted, and the key names the tenant.

    Leaving a `with` block waits until every request is answered, or raises NoAnswer after
    exit_timeout seconds; None has no limit. Messages are sent again only while one of the methods
    waits. One thread at a time can use a client. Raises NotConfigured.
    """

    def explain(self, timeout: float | None = DEFAULT_TIMEOUT) -> Explainer:
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
    flush = blocking(AsyncClient.flush)

    def batch(self, batch: str, timeout: float | None = DEFAULT_TIMEOUT) -> BatchHandle:
        """Reopen a batch by its id. Any process of the tenant can do this.

        Decided items are signed again, and charged once; the handle waits for undecided ones.
        Expired grants are returned as expired. Raises Refused with batch_unknown if no chunk of the
        batch has reached the service yet, and otherwise as usage() does.
        """
        return self._batch_handle(run(self._reopen(batch, timeout)))

    def close(self) -> None:
        """Close the connections without waiting for results: fire and forget.

        Messages that the broker loses are then not sent again, chunks that were not sent yet never
        are, and refusals are not reported. Messages that reach the service are decided, charged and
        recorded as usual; batch() returns their results later.
        """
        run(self._dispatcher.close())

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
        finally:
            self.close()

    def _connect(self, servers: Servers, codec: Codec, timer: RetransmitTimer) -> Dispatcher:
        return Dispatcher(Transport(servers), codec, timer)

    def _grant_handle(self, batch: BatchProgress) -> GrantHandle:
        return GrantHandle(self._batch_handle(batch))

    def _batch_handle(self, batch: BatchProgress) -> BatchHandle:
        return BatchHandle(self._session, batch)

    def _request_multipart(self, request: GrantRequest) -> MultipartHandle:
        request_parts = partial(self.parts, request.bucket)
        return MultipartHandle(self._request_batch(request), request_parts)

    def _explain_request(self, request: GrantRequest, timeout: float | None) -> Explanation:
        message = requests.explain_message(request, self._config, new_id())
        return run(self._session.send(Explanation, message, timeout))
