"""Asking for grants from a program."""

import random
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from valetkey import config
from valetkey.crypto.codec import Codec
from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.transport import Transport
from valetkey.errors import NoAnswer
from valetkey.handles import (
    DEFAULT_TIMEOUT,
    BatchHandle,
    GrantHandle,
    MultipartHandle,
    start_batch,
    wait_for_reply,
)
from valetkey.manifests import Manifest, build_manifest, poll_intervals, written_state
from valetkey.request_methods import RequestMethods
from valetkey.wire import requests
from valetkey.wire.chunking import uuid7
from valetkey.wire.messages import Cancelled, Explanation, Usage
from valetkey.wire.refusals import QuotaState
from valetkey.wire.requests import GrantRequest
from valetkey.wire.states import BatchState


class Client(RequestMethods[GrantHandle, MultipartHandle, BatchHandle]):
    """Asks the service for grants, and asks again until it is answered.

    What is not given comes from VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_TENANT,
    VALETKEY_REQUESTED_BY and VALETKEY_KEY or VALETKEY_KEY_FILE, else from a running `python -m
    worker dev`. key is what `valetkey keygen` wrote, as text or as the pathlib.Path of its file:
    messages are then signed, answers sealed, and the tenant is the key's. Leaving a `with` block
    waits until all is answered, or raises NoAnswer after exit_timeout seconds (None: never).
    Re-sending happens while one of the methods waits. Not for several threads at once. Raises
    NotConfigured.
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
        self._config = config.load(
            {
                "broker_url": broker_url,
                "result_url": result_url,
                "tenant": tenant,
                "requested_by": requested_by,
                "key": key,
            }
        )
        transport = Transport(self._config.broker_url, self._config.result_url)
        self._courier = Dispatcher(
            transport, Codec(self._config.key), RetransmitTimer(random.random)
        )
        self._exit_timeout = exit_timeout

    def explain(self, timeout: float = DEFAULT_TIMEOUT) -> "ExplainMethods":
        """Ask what would be decided, rule by rule; nothing is charged or signed.

        What it returns has the same methods as this client: `client.explain().download("reports",
        "a.pdf")` waits for an Explanation, at most `timeout` seconds. A batch is explained by its
        first chunk.
        """
        return ExplainMethods(partial(self._explained, timeout=timeout))

    def usage(self, timeout: float = DEFAULT_TIMEOUT) -> list[QuotaState]:
        """How the tenant's quotas stand.

        Raises NoAnswer after `timeout` seconds (or BrokerUnreachable, where that is why), Refused.
        """
        letter = requests.usage_message(self._config, new_id())
        return cast("Usage", wait_for_reply(self._courier, letter, timeout)).quotas

    def cancel(
        self,
        batch: str | BatchHandle | GrantHandle,
        reason: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Cancelled:
        """Have nothing more granted of a batch, and what is reserved for the rest of it released.

        batch is its handle or its id. Of a handle nothing more is sent, and what was not sent comes
        out refused. What was granted is out, and stays charged; so does a batch that was granted
        whole. Raises as usage() does; to cancel again does no harm.
        """
        batch = batch.batch if isinstance(batch, GrantHandle) else batch
        if isinstance(batch, BatchHandle):
            batch.stop()
            batch = batch.id
        letter = requests.cancel_message(self._config, new_id(), batch, reason)
        return cast("Cancelled", wait_for_reply(self._courier, letter, timeout))

    def batch(self, batch: str, timeout: float = DEFAULT_TIMEOUT) -> BatchHandle:
        """Reopen a batch by its id, whichever process of the tenant asked for it.

        What was decided is signed again and charged once; what is not decided yet is waited for.
        Links that have lapsed come out lapsed. Raises Refused (batch_unknown: nothing of such a
        batch has reached the service yet) and as usage() does.
        """
        letter = requests.batch_state_message(self._config, new_id(), batch)
        found = cast("BatchState", wait_for_reply(self._courier, letter, timeout))
        reopened = ReopenedBatchProgress(
            found, requests.reopen_messages(self._config, new_id(), found)
        )
        return BatchHandle(self._courier, reopened, self._manifest)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was asked is answered; None waits as long as it takes.

        Answers that nobody has read yet are kept, all of them. Raises NoAnswer after `timeout`
        seconds (or BrokerUnreachable, where that is why).
        """
        if not self._courier.wait(lambda: self._courier.idle, timeout, ahead=float("inf")):
            raise self._courier.trouble or NoAnswer(f"not all was answered within {timeout:g} s")

    def close(self) -> None:
        """Close the connections without waiting for answers: fire and forget.

        What that gives up: what a broker has lost is not sent again, chunks that were not sent by
        then never are, and nobody learns what was refused. What has arrived is decided, charged and
        recorded all the same; batch() finds it again.
        """
        self._courier.close()

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

    def _one(self, request: GrantRequest) -> GrantHandle:
        return GrantHandle(self._many(request))

    def _begun(self, request: GrantRequest) -> MultipartHandle:
        return MultipartHandle(self._many(request), partial(self.parts, request.bucket))

    def _many(self, request: GrantRequest) -> BatchHandle:
        head, letters = requests.grant_messages(request, self._config, new_id())
        return start_batch(
            self._courier, BatchProgress(head, letters, request.first_chunk), self._manifest
        )

    def _manifest(self, batch: str, timeout: float) -> Manifest:
        for gap in poll_intervals(timeout, time.monotonic):
            letter = requests.batch_state_message(self._config, new_id(), batch)
            state = cast("BatchState", wait_for_reply(self._courier, letter, DEFAULT_TIMEOUT))
            found = written_state(state)
            if found is not None:
                link = self.download(state.bucket, found.key, min_expires_in=1)
                return build_manifest(found, link.result())
            self._courier.wait(lambda: False, gap)
        raise AssertionError  # gaps raise

    def _explained(self, request: GrantRequest, timeout: float) -> Explanation:
        letter = requests.explain_message(request, self._config, new_id())
        return cast("Explanation", wait_for_reply(self._courier, letter, timeout))


class ExplainMethods(RequestMethods[Explanation, Explanation, Explanation]):
    """Asks what would be decided, by the methods of a client; see Client.explain."""

    def __init__(self, ask: Callable[[GrantRequest], Explanation]) -> None:
        self._ask = ask

    def _one(self, request: GrantRequest) -> Explanation:
        return self._ask(request)

    def _begun(self, request: GrantRequest) -> Explanation:
        return self._ask(request)

    def _many(self, request: GrantRequest) -> Explanation:
        return self._ask(request)


def new_id() -> str:
    """A new id, for a batch or for the task of whatever else is asked."""
    return uuid7(time.time_ns() // 10**6, secrets.token_bytes(10))
