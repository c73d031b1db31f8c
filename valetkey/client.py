"""Asking for grants from a program."""

import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sized
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from valetkey import config
from valetkey.batches import Asked, batch_id, chunks, header
from valetkey.courier import Courier
from valetkey.errors import NoAnswer
from valetkey.handles import PATIENCE, BatchHandle, GrantHandle, MultipartHandle
from valetkey.messages import DEFAULT_CHUNK, Grant, Item
from valetkey.options import (
    DownloadOptions,
    MultipartOptions,
    Options,
    PutOptions,
    UploadOptions,
)
from valetkey.sender import Sender
from valetkey.terms import Checksum, Kind
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

    def download(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        **options: Unpack[DownloadOptions],
    ) -> GrantHandle:
        """Ask for a link to one object; see options.DownloadOptions."""
        item = {"key": key, "version_id": version_id}
        return GrantHandle(self._ask("download", bucket, [item], options=options))

    def upload(
        self,
        bucket: str,
        key: str,
        *,
        size: int | None = None,
        checksum: Checksum | None = None,
        **options: Unpack[UploadOptions],
    ) -> GrantHandle:
        """Ask for a form that stores one object; see options.UploadOptions.

        The exact size in bytes is only needed where storage takes no forms: the grant is then a
        PUT.
        """
        item = {"key": key, "size": size, "checksum": checksum}
        return GrantHandle(self._ask("upload", bucket, [item], options=options))

    def put(
        self,
        bucket: str,
        key: str,
        *,
        size: int,
        checksum: Checksum | None = None,
        **options: Unpack[PutOptions],
    ) -> GrantHandle:
        """Ask for a PUT that stores one object of exactly size bytes; see options.PutOptions."""
        item = {"key": key, "size": size, "checksum": checksum}
        said = {"max_size": max(size, 1), **options}
        return GrantHandle(self._ask("put", bucket, [item], options=said))

    def multipart(
        self, bucket: str, key: str, *, size: int, **options: Unpack[MultipartOptions]
    ) -> MultipartHandle:
        """Begin an upload in parts of one object of size bytes; see options.MultipartOptions."""
        said = {"max_size": max(size, 1), **options}
        batch = self._ask("multipart", bucket, [{"key": key, "size": size}], options=said)
        return MultipartHandle(batch, partial(self.parts, bucket))

    def parts(
        self,
        bucket: str,
        grant: Grant,
        first: int = 1,
        last: int | None = None,
        **options: Unpack[Options],
    ) -> BatchHandle:
        """Ask for URLs that each take one part of an upload that was begun by a multipart grant.

        first and last are parts' numbers, from 1; None is the last of all. Raises ValueError where
        there are no such parts.
        """
        count = grant.multipart.part_count if grant.multipart else 0
        numbers = range(first, (count if last is None else last) + 1)
        if not (numbers and numbers[0] >= 1 and numbers[-1] <= count):
            raise ValueError(f"the upload has {count} parts")
        items = [{"key": grant.key, "part": number} for number in numbers]
        return self._ask("parts", bucket, items, options={"of": grant.id, **options})

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

    def put_many(
        self,
        bucket: str,
        items: Iterable[Item],
        *,
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        **options: Unpack[PutOptions],
    ) -> BatchHandle:
        """Ask for a PUT for each of many objects, whose items all say their size.

        Otherwise as download_many; items that do not know their length are listed first as well
        where max_size is not given.
        """
        if "max_size" not in options:
            items = items if isinstance(items, Sized) else list(items)
            options["max_size"] = max((item.size or 1 for item in items), default=1)
        return self._ask("put", bucket, items, total, chunk_size, options=options)

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

    def _ask(  # noqa: PLR0913 - what the public methods differ in
        self,
        kind: Kind,
        bucket: str,
        items: Iterable[Asked],
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        *,
        options: Mapping[str, Any],
    ) -> BatchHandle:
        if total is None:
            items = items if isinstance(items, Sized) else list(items)
            total = len(items)
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
        batch = BatchHandle(self._courier, head, chunks(head, items))
        self._start(batch)
        return batch

    def _start(self, batch: BatchHandle) -> None:
        self._courier.take(batch)
        if not self._courier.wait(lambda: batch.started, PATIENCE):
            self._courier.drop(batch)
            raise self._courier.trouble or NoAnswer("too much is unanswered to ask for more")
