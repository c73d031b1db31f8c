"""The blocking client of the service."""

import random
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from valetkey.config import load_config
from valetkey.crypto.codec import Codec
from valetkey.delivery.dispatcher import Dispatcher, request_reply
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.transport import Transport, client_servers
from valetkey.errors import NoAnswer
from valetkey.handles import (
    DEFAULT_TIMEOUT,
    BatchHandle,
    BlockingWaiters,
    GrantHandle,
    MultipartHandle,
    Waiters,
    read_grant_id,
    read_subject,
    start_batch,
)
from valetkey.handles import new_id as new_id  # noqa: PLC0414 - where programs import it
from valetkey.request_methods import ExplainMethods, RequestMethods
from valetkey.waits import Manifest, ManifestWait, StoredObject, StoredWait, build_manifest
from valetkey.wire import requests
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import Ask, Item
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import QuotaState
from valetkey.wire.replies import (
    BatchState,
    Cancelled,
    Explanation,
    Grant,
    ManifestState,
    ServiceInfo,
    Usage,
    UseStates,
)
from valetkey.wire.requests import GrantRequest

Keys = Iterable[str | Item]
Items = Iterable[Item]
Explainer = ExplainMethods[Explanation, Keys, Items]


class Client(RequestMethods[GrantHandle, MultipartHandle, BatchHandle, Keys, Items]):
    """Requests grants from the service, and sends each request again until it is answered.

    Arguments that are None come from VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_TENANT,
    VALETKEY_REQUESTED_BY and VALETKEY_KEY or VALETKEY_KEY_FILE, or else from a running `python -m
    worker dev`. key is a private key from `valetkey keygen`, as text or as the pathlib.Path of its
    file. With a key, messages are signed, results are encrypted, and the key names the tenant.

    Leaving a `with` block waits until every request is answered, or raises NoAnswer after
    exit_timeout seconds; None has no limit. Messages are sent again only while one of the methods
    waits. One thread at a time can use a client. Raises NotConfigured.
    """

    def __init__(  # noqa: PLR0913 - each has its own default
        self,
        broker_url: str | None = None,
        result_url: str | None = None,
        tenant: str | None = None,
        requested_by: str | None = None,
        *,
        key: str | Path | None = None,
        exit_timeout: float | None = 60.0,
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
        transport = Transport(client_servers(self._config))
        self._dispatcher = Dispatcher(
            transport, Codec(self._config.key), RetransmitTimer(random.random)
        )
        self._exit_timeout = exit_timeout

    def explain(self, timeout: float = DEFAULT_TIMEOUT) -> Explainer:
        """Ask how a request would be decided, rule by rule. Nothing is charged or signed.

        The returned object has this client's request methods, but each returns an Explanation and
        waits for it, at most `timeout` seconds: `client.explain().download("reports", "a.pdf")`.
        Only the first chunk of a batch is explained.
        """
        return ExplainMethods(partial(self._explain_request, timeout=timeout))

    def usage(self, timeout: float = DEFAULT_TIMEOUT) -> list[QuotaState]:
        """Return the state of the tenant's quotas.

        Raises Refused, and after `timeout` seconds NoAnswer, or BrokerUnreachable if that is the
        cause.
        """
        message = self._message("usage")
        return cast("Usage", request_reply(self._dispatcher, message, timeout)).quotas

    def service(self, timeout: float = DEFAULT_TIMEOUT) -> ServiceInfo:
        """Return the release, versions, kinds and limits of the service. Raises as usage() does."""
        message = self._message("service")
        return cast("ServiceInfo", request_reply(self._dispatcher, message, timeout))

    def batch(self, batch: str, timeout: float = DEFAULT_TIMEOUT) -> BatchHandle:
        """Reopen a batch by its id. Any process of the tenant can do this.

        Decided items are signed again, and charged once; the handle waits for undecided ones.
        Expired grants are returned as expired. Raises Refused with batch_unknown if no chunk of the
        batch has reached the service yet, and otherwise as usage() does.
        """
        message = self._message("batch", batch=batch)
        state = cast("BatchState", request_reply(self._dispatcher, message, timeout))
        messages = requests.reopen_messages(self._config, new_id(), state)
        progress = ReopenedBatchProgress(state, messages)
        return BatchHandle(self._dispatcher, progress, self._waiters)

    def status(
        self,
        subject: str | Grant | GrantHandle | BatchHandle,
        *,
        probe: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> UseStates:
        """Return what became of a grant, or the numbers of a batch's items by state.

        subject is a grant, a handle, a grant id or a batch id. For one grant, the result has the
        state; for a batch, it has counts. Any process of the tenant can ask.

        With probe, the service first asks storage for the objects of upload slots of which it
        knows no use: of a grant, or of a batch of at most 50 items. Without it, the service tells
        only what it knows. Raises Refused, and after `timeout` seconds NoAnswer, or
        BrokerUnreachable if that is the cause; ValueError for a text that is no id, and TypeError
        for a subject of another type.
        """
        batch_id, item = read_subject(subject)
        items = None if item is None else [item]
        message = self._message("status", batch=batch_id, items=items, probe=probe)
        return cast("UseStates", request_reply(self._dispatcher, message, timeout))

    def reissue(
        self,
        grant: str | Grant | GrantHandle,
        *,
        expires_in: int | None = None,
        reason: str | None = None,
        recipient: str | None = None,
        batch_id: str | None = None,
    ) -> GrantHandle:
        """Request a fresh grant of the same object, under the terms of an earlier one.

        grant is the earlier grant, its handle or its id: a download, an upload or a put of the
        tenant, expired or not. The new grant is charged and recorded as any other; the audit log
        says which one it was issued again for. expires_in is its lifetime in seconds, by default
        that which was requested for the earlier one. batch_id is a UUIDv7 that you create, to
        repeat the request after a crash. Raises ValueError for a text that is no grant id.
        """
        name = new_id() if batch_id is None else batch_id
        options = {"reason": reason, "recipient": recipient, "expires_in": expires_in}
        message = requests.reissue_message(self._config, name, read_grant_id(grant), options)
        progress = BatchProgress(requests.single_header(name), iter([message]))
        return GrantHandle(start_batch(self._dispatcher, progress, self._waiters))

    def cancel(
        self,
        batch: str | BatchHandle | GrantHandle,
        reason: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        abort_uploads: bool = False,
    ) -> Cancelled:
        """Cancel a batch: grant no further items, and release what is reserved for them.

        batch is a handle or a batch id. A handle sends no more chunks, and the items of unsent
        chunks come out refused. Granted items remain valid and charged, so cancelling a batch that
        was granted completely has no effect. Cancelling twice is no error. Raises as usage() does.

        With abort_uploads, the service also aborts the granted multipart uploads that are still
        unfinished, and gives their bytes back to the quotas within minutes. A service of an earlier
        release refuses this as unknown_field.
        """
        batch = batch.batch if isinstance(batch, GrantHandle) else batch
        if isinstance(batch, BatchHandle):
            batch.stop()
            batch = batch.id
        fields = {"reason": reason, "abort_uploads": abort_uploads or None}
        requested_by = self._config.requested_by
        message = self._message("cancel", batch=batch, requested_by=requested_by, **fields)
        return cast("Cancelled", request_reply(self._dispatcher, message, timeout))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every request is answered; None has no time limit.

        All results that nobody has read yet are kept in memory. Raises NoAnswer after `timeout`
        seconds, or BrokerUnreachable if that is the cause.
        """
        dispatcher = self._dispatcher
        if not dispatcher.wait(lambda: dispatcher.is_idle, timeout, unread_limit=float("inf")):
            raise dispatcher.outage or NoAnswer(
                f"not every request was answered within {timeout:g} s"
            )

    def close(self) -> None:
        """Close the connections without waiting for results: fire and forget.

        Messages that the broker loses are then not sent again, chunks that were not sent yet never
        are, and refusals are not reported. Messages that reach the service are decided, charged and
        recorded as usual; batch() returns their results later.
        """
        self._dispatcher.close()

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

    def _message(self, ask: Ask, **fields: Any) -> PendingMessage:
        return requests.build_message(self._config, new_id(), ask, **fields)

    def _request_grant(self, request: GrantRequest) -> GrantHandle:
        return GrantHandle(self._request_batch(request))

    def _request_multipart(self, request: GrantRequest) -> MultipartHandle:
        request_parts = partial(self.parts, request.bucket)
        return MultipartHandle(self._request_batch(request), request_parts)

    def _request_batch(self, request: GrantRequest) -> BatchHandle:
        header, messages = requests.header_and_messages(request, self._config, new_id())
        progress = BatchProgress(header, messages, request.first_chunk)
        return start_batch(self._dispatcher, progress, self._waiters)

    @property
    def _waiters(self) -> BlockingWaiters:
        return Waiters(self._wait_for_manifest, self._wait_until_stored)

    def _wait_for_manifest(self, batch_id: str, timeout: float) -> Manifest:
        waiting = ManifestWait(timeout, time.monotonic)
        while True:
            message = self._message("batch", batch=batch_id)
            reply = request_reply(self._dispatcher, message, waiting.limit)
            state = cast("BatchState", reply)
            result = waiting.receive(state)
            if isinstance(result, ManifestState):
                link = self.download(state.bucket, result.key, min_expires_in=1)
                return build_manifest(result, link.result(waiting.limit))
            self._dispatcher.wait(lambda: False, result)

    def _wait_until_stored(self, batch_id: str, item: int, timeout: float) -> StoredObject:
        waiting = StoredWait(grant_id(batch_id, item), timeout, time.monotonic)
        while True:
            message = self._message("status", batch=batch_id, items=[item], probe=True)
            reply = request_reply(self._dispatcher, message, waiting.limit)
            result = waiting.receive(cast("UseStates", reply))
            if isinstance(result, StoredObject):
                return result
            self._dispatcher.wait(lambda: False, result)

    def _explain_request(self, request: GrantRequest, timeout: float) -> Explanation:
        message = requests.explain_message(request, self._config, new_id())
        return cast("Explanation", request_reply(self._dispatcher, message, timeout))
