"""The request methods that all clients share: their names, arguments and defaults."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Annotated, Generic, TypeVar, Unpack

from valetkey.arguments import NOT_NEGATIVE, checked
from valetkey.wire.chunking import ItemInput, RowInput
from valetkey.wire.options import (
    DownloadManyOptions,
    DownloadOptions,
    MultipartOptions,
    PutManyOptions,
    PutOptions,
    RequestOptions,
    UploadManyOptions,
    UploadOptions,
)
from valetkey.wire.replies import Grant
from valetkey.wire.requests import GrantRequest
from valetkey.wire.terms import Checksum

SingleResult = TypeVar("SingleResult")
MultipartResult = TypeVar("MultipartResult")
BatchResult = TypeVar("BatchResult")
_ITERABLE = "a list or another iterable"
Keys = TypeVar("Keys", bound=Annotated[Iterable[ItemInput] | AsyncIterable[ItemInput], _ITERABLE])
Items = TypeVar("Items", bound=Annotated[Iterable[RowInput] | AsyncIterable[RowInput], _ITERABLE])
Size = Annotated[int, NOT_NEGATIVE]


@checked
class RequestMethods(ABC, Generic[SingleResult, MultipartResult, BatchResult, Keys, Items]):
    """Requests grants: a single one, a multipart upload, or a batch.

    Each client defines the types that the methods return, and whether the keys and items of a batch
    may come from an async iterable. The options are keyword arguments; valetkey.wire.options
    describes each of them.

    All methods raise TypeError for an argument, an item or a field of it that has another type, and
    for an option that the kind does not have; ValueError for a negative size, a chunk_size out of
    range, a batch_id that is no UUIDv7 or a date without a time zone. Both name the argument, and
    nothing is sent. Items that are read as they are sent are checked then.
    """

    def download(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        **options: Unpack[DownloadOptions],
    ) -> SingleResult:
        """Request a link to one object."""
        item = {"key": key, "version_id": version_id}
        return self._request_grant(GrantRequest.of_options("download", bucket, [item], options))

    def upload(
        self,
        bucket: str,
        key: str,
        *,
        size: Size | None = None,
        checksum: Checksum | None = None,
        **options: Unpack[UploadOptions],
    ) -> SingleResult:
        """Request a form that stores one object.

        size is the exact size in bytes. It is only needed if storage does not support forms: the
        grant is then a PUT.
        """
        item = {"key": key, "size": size, "checksum": checksum}
        return self._request_grant(GrantRequest.of_options("upload", bucket, [item], options))

    def put(
        self,
        bucket: str,
        key: str,
        *,
        size: Size,
        checksum: Checksum | None = None,
        **options: Unpack[PutOptions],
    ) -> SingleResult:
        """Request a PUT that stores one object of exactly size bytes."""
        item = {"key": key, "size": size, "checksum": checksum}
        terms = {"max_size": max(size, 1), **options}
        return self._request_grant(GrantRequest.of_options("put", bucket, [item], terms))

    def multipart(
        self, bucket: str, key: str, *, size: Size, **options: Unpack[MultipartOptions]
    ) -> MultipartResult:
        """Request a multipart upload of one object of size bytes."""
        item = {"key": key, "size": size}
        terms = {"max_size": max(size, 1), **options}
        return self._request_multipart(GrantRequest.of_options("multipart", bucket, [item], terms))

    def parts(
        self,
        bucket: str,
        grant: Grant,
        first: int = 1,
        last: int | None = None,
        **options: Unpack[RequestOptions],
    ) -> BatchResult:
        """Request a URL for each part, from first to last, of a multipart upload.

        grant is the grant of the upload. first and last are part numbers, from 1; None is the last
        part of the upload. Raises ValueError if the upload has no such parts.
        """
        count = grant.multipart.part_count if grant.multipart else 0
        numbers = range(first, (count if last is None else last) + 1)
        if not (numbers and numbers[0] >= 1 and numbers[-1] <= count):
            raise ValueError(f"the upload has {count} parts: first and last must be among them")
        items = [{"key": grant.key, "part": number} for number in numbers]
        terms = {"of": grant.id, **options}
        return self._request_batch(GrantRequest.of_options("parts", bucket, items, terms))

    def download_many(
        self, bucket: str, keys: Keys, **options: Unpack[DownloadManyOptions]
    ) -> BatchResult:
        """Request a link to each of many objects."""
        return self._request_batch(GrantRequest.of_many("download", bucket, keys, options))

    def upload_many(
        self, bucket: str, keys: Keys, **options: Unpack[UploadManyOptions]
    ) -> BatchResult:
        """Request a form for each of many objects."""
        return self._request_batch(GrantRequest.of_many("upload", bucket, keys, options))

    def put_many(self, bucket: str, items: Items, **options: Unpack[PutManyOptions]) -> BatchResult:
        """Request a PUT for each of many objects. Every item must have a size.

        Without max_size, items without a length are read into a list first, even if total is
        passed.
        """
        return self._request_batch(GrantRequest.of_many("put", bucket, items, options))

    @abstractmethod
    def _request_grant(self, request: GrantRequest) -> SingleResult:
        """Request one grant."""

    @abstractmethod
    def _request_multipart(self, request: GrantRequest) -> MultipartResult:
        """Request a multipart upload."""

    @abstractmethod
    def _request_batch(self, request: GrantRequest) -> BatchResult:
        """Request a batch of grants."""


class ExplainMethods(RequestMethods[SingleResult, SingleResult, SingleResult, Keys, Items]):
    """The request methods of a client; each returns an Explanation instead of a handle.

    Those of AsyncClient return an Explanation to await.
    """

    def __init__(self, explain: Callable[[GrantRequest], SingleResult]) -> None:
        self._explain = explain

    def _request_grant(self, request: GrantRequest) -> SingleResult:
        return self._explain(request)

    _request_multipart = _request_batch = _request_grant
