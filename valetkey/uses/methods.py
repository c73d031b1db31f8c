"""The methods of Client about requested grants: states, cancelling, issuing again."""

import time
from typing import cast

from valetkey.config import Config
from valetkey.delivery.dispatcher import Dispatcher, request_reply
from valetkey.delivery.progress import BatchProgress
from valetkey.handles import DEFAULT_TIMEOUT, BatchHandle, GrantHandle, Waiters, start_batch
from valetkey.uses.ids import new_id
from valetkey.uses.stored import StoredObject, StoredWait
from valetkey.uses.subjects import read_grant_id, read_subject
from valetkey.wire import requests
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.replies import Cancelled, Grant
from valetkey.wire.uses import UseStates


class UseMethods:
    """The methods of Client about requested grants: states, cancelling, issuing again."""

    _config: Config
    _dispatcher: Dispatcher

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
        message = requests.status_message(self._config, new_id(), batch_id, items, probe=probe)
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
        message = requests.cancel_message(
            self._config, new_id(), batch, reason, abort_uploads=abort_uploads
        )
        return cast("Cancelled", request_reply(self._dispatcher, message, timeout))

    @property
    def _waiters(self) -> Waiters:
        raise NotImplementedError

    def _wait_until_stored(self, batch_id: str, item: int, timeout: float) -> StoredObject:
        waiting = StoredWait(grant_id(batch_id, item), timeout, time.monotonic)
        while True:
            message = requests.status_message(self._config, new_id(), batch_id, [item], probe=True)
            reply = request_reply(self._dispatcher, message, waiting.limit)
            result = waiting.receive(cast("UseStates", reply))
            if isinstance(result, StoredObject):
                return result
            self._dispatcher.wait(lambda: False, result)
