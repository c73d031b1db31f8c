"""The methods of AsyncClient about requested grants: states, cancelling, issuing again."""

import asyncio
import time
from typing import cast

from valetkey.async_handles import (
    AsyncBatchHandle,
    AsyncGrantHandle,
    AsyncWaiters,
    request_reply,
)
from valetkey.base_handles import DEFAULT_TIMEOUT
from valetkey.config import Config
from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.progress import BatchProgress
from valetkey.uses.ids import new_id
from valetkey.uses.stored import StoredObject, StoredWait
from valetkey.uses.subjects import read_grant_id, read_subject
from valetkey.wire import requests
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.replies import Cancelled, Grant
from valetkey.wire.uses import UseStates


class AsyncUseMethods:
    """The methods of AsyncClient about requested grants: states, cancelling, issuing again."""

    _config: Config
    _dispatcher: AsyncDispatcher

    async def status(
        self,
        subject: str | Grant | AsyncGrantHandle | AsyncBatchHandle,
        *,
        probe: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> UseStates:
        """Return what became of a grant, or the numbers of a batch's items by state.

        The arguments and errors are those of Client.status.
        """
        batch_id, item = read_subject(subject)
        items = None if item is None else [item]
        message = requests.status_message(self._config, new_id(), batch_id, items, probe=probe)
        return cast("UseStates", await request_reply(self._dispatcher, message, timeout))

    def reissue(
        self,
        grant: str | Grant | AsyncGrantHandle,
        *,
        expires_in: int | None = None,
        reason: str | None = None,
        recipient: str | None = None,
        batch_id: str | None = None,
    ) -> AsyncGrantHandle:
        """Request a fresh grant of the same object, under the terms of an earlier one.

        The arguments and errors are those of Client.reissue.
        """
        name = new_id() if batch_id is None else batch_id
        options = {"reason": reason, "recipient": recipient, "expires_in": expires_in}
        message = requests.reissue_message(self._config, name, read_grant_id(grant), options)
        progress = BatchProgress(requests.single_header(name), iter([message]))
        self._dispatcher.add(progress)
        return AsyncGrantHandle(self._dispatcher, progress, self._waiters)

    async def cancel(
        self,
        batch: str | AsyncBatchHandle | AsyncGrantHandle,
        reason: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        abort_uploads: bool = False,
    ) -> Cancelled:
        """Cancel a batch: grant no further items, and release what is reserved for them.

        The arguments and errors are those of Client.cancel.
        """
        batch = batch.batch if isinstance(batch, AsyncGrantHandle) else batch
        if isinstance(batch, AsyncBatchHandle):
            batch.stop()
            batch = batch.id
        message = requests.cancel_message(
            self._config, new_id(), batch, reason, abort_uploads=abort_uploads
        )
        return cast("Cancelled", await request_reply(self._dispatcher, message, timeout))

    @property
    def _waiters(self) -> AsyncWaiters:
        raise NotImplementedError

    async def _wait_until_stored(self, batch_id: str, item: int, timeout: float) -> StoredObject:
        waiting = StoredWait(grant_id(batch_id, item), timeout, time.monotonic)
        while True:
            message = requests.status_message(self._config, new_id(), batch_id, [item], probe=True)
            reply = await request_reply(self._dispatcher, message, waiting.limit)
            result = waiting.receive(cast("UseStates", reply))
            if isinstance(result, StoredObject):
                return result
            await asyncio.sleep(result)
