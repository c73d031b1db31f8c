"""Asking for grants from a program."""

import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sized
from types import TracebackType
from typing import Any, Self, Unpack

from valetkey import config
from valetkey.batches import DownloadOptions, UploadOptions, batch_id, chunks, header
from valetkey.courier import Courier
from valetkey.errors import NoAnswer
from valetkey.handles import PATIENCE, BatchHandle, GrantHandle
from valetkey.messages import DEFAULT_CHUNK, Item
from valetkey.sender import Sender
from valetkey.transport import Transport


class Client:
    """Asks the service for grants, and asks again until it is answered.

    What is not given comes from VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_TENANT and
    VALETKEY_REQUESTED_BY, else from a running `python -m worker dev`. Leaving a `with` block
    waits until all is answered, or raises NoAnswer after exit_timeout seconds (None: never).
    Re-sending happens while one of the methods waits. Not for several threads at once. Raises
    NotConfigured.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        result_url: str | None = None,
        tenant: str | None = None,
        requested_by: str | None = None,
        *,
        exit_timeout: float | None = 60.0,
    ) -> None:
        self._config = config.load(
            {
                "broker_url": broker_url,
                "result_url": result_url,
                "tenant": tenant,
                "requested_by": requested_by,
            }
        )
        transport = Transport(self._config.broker_url, self._config.result_url)
        self._courier = Courier(transport, Sender(random.random))
        self._exit_timeout = exit_timeout

    def download(self, bucket: str, key: str, **options: Unpack[DownloadOptions]) -> GrantHandle:
        """Ask for a link to one object; see batches.DownloadOptions."""
        return GrantHandle(self._ask("download", bucket, [key], options=options))

    def upload(self, bucket: str, key: str, **options: Unpack[UploadOptions]) -> GrantHandle:
        """Ask for a form that stores one object; see batches.UploadOptions."""
        return GrantHandle(self._ask("upload", bucket, [key], options=options))

    def download_many(
        self,
        bucket: str,
        keys: Iterable[str | Item],
        *,
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        **options: Unpack[DownloadOptions],
    ) -> BatchHandle:
        """Ask for a link to each of many objects.

        total is how many keys there are; without it, keys that do not know their length are
        listed first. The batch is admitted, or refused for a quota, as a whole.
        """
        return self._ask("download", bucket, keys, total, chunk_size, options=options)

    def upload_many(
        self,
        bucket: str,
        keys: Iterable[str | Item],
        *,
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        **options: Unpack[UploadOptions],
    ) -> BatchHandle:
        """Ask for a form for each of many objects; otherwise as download_many."""
        return self._ask("upload", bucket, keys, total, chunk_size, options=options)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was asked is answered; None waits as long as it takes.

        Answers that nobody has read yet are kept, all of them. Raises NoAnswer after `timeout`
        seconds (or BrokerUnreachable, where that is why).
        """
        if not self._courier.wait(lambda: self._courier.idle, timeout, ahead=float("inf")):
            raise self._courier.trouble or NoAnswer(f"not all was answered within {timeout:g} s")

    def close(self) -> None:
        """Close the connections without waiting for answers."""
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

    def _ask(  # noqa: PLR0913 - what the four public methods differ in
        self,
        kind: str,
        bucket: str,
        keys: Iterable[str | Item],
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        *,
        options: Mapping[str, Any],
    ) -> BatchHandle:
        if total is None:
            keys = keys if isinstance(keys, Sized) else list(keys)
            total = len(keys)
        head = header(
            kind=kind,
            tenant=self._config.tenant,
            requested_by=self._config.requested_by,
            bucket=bucket,
            batch=batch_id(time.time_ns() // 10**6, secrets.token_bytes(10)),
            total=total,
            chunk_size=chunk_size,
            options=options,
        )
        batch = BatchHandle(self._courier, head, chunks(head, keys))
        self._start(batch)
        return batch

    def _start(self, batch: BatchHandle) -> None:
        self._courier.take(batch)
        if not self._courier.wait(lambda: batch.started, PATIENCE):
            self._courier.drop(batch)
            raise self._courier.trouble or NoAnswer("too much is unanswered to ask for more")
