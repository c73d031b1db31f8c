"""What can be asked for, by the names and arguments that all clients have alike."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Iterable
from typing import Generic, TypeVar, Unpack

from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS, Grant, Item
from valetkey.wire.options import (
    DownloadOptions,
    MultipartOptions,
    Options,
    PutOptions,
    UploadOptions,
)
from valetkey.wire.requests import GrantRequest, with_known_length
from valetkey.wire.terms import Checksum

SingleResult = TypeVar("SingleResult")
MultipartResult = TypeVar("MultipartResult")
BatchResult = TypeVar("BatchResult")
Keys = TypeVar("Keys", bound=Iterable[str | Item] | AsyncIterable[str | Item])
Items = TypeVar("Items", bound=Iterable[Item] | AsyncIterable[Item])


class BaseRequestMethods(ABC, Generic[SingleResult, MultipartResult, BatchResult, Keys, Items]):
    """Asks for grants: one, an upload in parts, or many.

    What comes of it is a client's own, and so is whether many keys and items may come
    asynchronously.

    All methods raise TypeError for an option that the kind does not have, and ValueError for a
    chunk size that no message may have or a date without a time zone.
    """

    def download(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        **options: Unpack[DownloadOptions],
    ) -> SingleResult:
        """Ask for a link to one object; see options.DownloadOptions."""
        item = {"key": key, "version_id": version_id}
        return self._one(GrantRequest("download", bucket, [item], options))

    def upload(
        self,
        bucket: str,
        key: str,
        *,
        size: int | None = None,
        checksum: Checksum | None = None,
        **options: Unpack[UploadOptions],
    ) -> SingleResult:
        """Ask for a form that stores one object; see options.UploadOptions.

        The exact size in bytes is only needed where storage takes no forms: the grant is then a
        PUT.
        """
        item = {"key": key, "size": size, "checksum": checksum}
        return self._one(GrantRequest("upload", bucket, [item], options))

    def put(
        self,
        bucket: str,
        key: str,
        *,
        size: int,
        checksum: Checksum | None = None,
        **options: Unpack[PutOptions],
    ) -> SingleResult:
        """Ask for a PUT that stores one object of exactly size bytes; see options.PutOptions."""
        item = {"key": key, "size": size, "checksum": checksum}
        return self._one(GrantRequest("put", bucket, [item], {"max_size": max(size, 1), **options}))

    def multipart(
        self, bucket: str, key: str, *, size: int, **options: Unpack[MultipartOptions]
    ) -> MultipartResult:
        """Begin an upload in parts of one object of size bytes; see options.MultipartOptions."""
        said = {"max_size": max(size, 1), **options}
        return self._begun(GrantRequest("multipart", bucket, [{"key": key, "size": size}], said))

    def parts(
        self,
        bucket: str,
        grant: Grant,
        first: int = 1,
        last: int | None = None,
        **options: Unpack[Options],
    ) -> BatchResult:
        """Ask for URLs that each take one part of an upload that was begun by a multipart grant.

        first and last are parts' numbers, from 1; None is the last of all. Raises ValueError where
        there are no such parts.
        """
        count = grant.multipart.part_count if grant.multipart else 0
        numbers = range(first, (count if last is None else last) + 1)
        if not (numbers and numbers[0] >= 1 and numbers[-1] <= count):
            raise ValueError(f"the upload has {count} parts")
        items = [{"key": grant.key, "part": number} for number in numbers]
        return self._many(GrantRequest("parts", bucket, items, {"of": grant.id, **options}))

    def download_many(  # noqa: PLR0913 - each has its own default
        self,
        bucket: str,
        keys: Keys,
        *,
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_ITEMS,
        batch_id: str | None = None,
        first_chunk: int = 0,
        manifest: str | None = None,
        **options: Unpack[DownloadOptions],
    ) -> BatchResult:
        """Ask for a link to each of many objects.

        total is how many keys there are; without it, keys that do not know their length are
        listed first. The batch is admitted, or refused for a quota, as a whole.

        batch_id, a UUIDv7 of the caller's own, lets whoever was interrupted go on, in any process:
        with the same total, chunk_size and options, and the keys from chunk first_chunk on. What
        was granted is granted again, and charged once. Of a batch that began a day ago, nothing new
        is granted.

        manifest is a key in the same bucket: for very large jobs, the service itself writes all
        answers there. None is handed out, but those that refuse the batch; see the handle's
        manifest().
        """
        again = (batch_id, first_chunk, manifest)
        return self._many(
            GrantRequest("download", bucket, keys, options, total, chunk_size, *again)
        )

    def upload_many(  # noqa: PLR0913 - each has its own default
        self,
        bucket: str,
        keys: Keys,
        *,
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_ITEMS,
        batch_id: str | None = None,
        first_chunk: int = 0,
        manifest: str | None = None,
        **options: Unpack[UploadOptions],
    ) -> BatchResult:
        """Ask for a form for each of many objects; otherwise as download_many."""
        again = (batch_id, first_chunk, manifest)
        return self._many(GrantRequest("upload", bucket, keys, options, total, chunk_size, *again))

    def put_many(  # noqa: PLR0913 - each has its own default
        self,
        bucket: str,
        items: Items,
        *,
        total: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_ITEMS,
        batch_id: str | None = None,
        first_chunk: int = 0,
        manifest: str | None = None,
        **options: Unpack[PutOptions],
    ) -> BatchResult:
        """Ask for a PUT for each of many objects, whose items all say their size.

        Otherwise as download_many; items that do not know their length are listed first as well
        where max_size is not given.
        """
        asked: Iterable[Item] | AsyncIterable[Item] = items
        if "max_size" not in options:
            asked = with_known_length(asked, "max_size")
            options["max_size"] = max((item.size or 1 for item in asked), default=1)
        again = (batch_id, first_chunk, manifest)
        return self._many(GrantRequest("put", bucket, asked, options, total, chunk_size, *again))

    @abstractmethod
    def _one(self, request: GrantRequest) -> SingleResult:
        """Ask for one grant."""

    @abstractmethod
    def _begun(self, request: GrantRequest) -> MultipartResult:
        """Ask to begin an upload in parts."""

    @abstractmethod
    def _many(self, request: GrantRequest) -> BatchResult:
        """Ask for many grants."""


class RequestMethods(
    BaseRequestMethods[
        SingleResult, MultipartResult, BatchResult, Iterable[str | Item], Iterable[Item]
    ]
):
    """Asks for what is at hand."""
