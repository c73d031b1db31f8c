"""Wrong uses of the public Python API: each fails where it is made, before anything is sent.

The broker of these tests cannot be reached. The names of the tests are the wrong uses themselves.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from valetkey import (
    AsyncBatchHandle,
    AsyncClient,
    AsyncGrantHandle,
    AsyncMultipartHandle,
    BatchHandle,
    BrokerUnreachable,
    Client,
    Grant,
    GrantHandle,
    Item,
    MultipartHandle,
    MultipartUploader,
    new_id,
)
from valetkey.arguments import checked
from valetkey.delivery.progress import BatchProgress
from valetkey.units import parse_duration, parse_size
from valetkey.webhook_examples import example_body
from valetkey.webhooks import sign, unwrap
from valetkey.wire.events import EVENT_TYPES
from valetkey.wire.item_checks import checked_items

BROKER = "redis://127.0.0.1:1/0"
BATCH = "0199a000-0000-7000-8000-000000000000"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NAIVE = NOW.replace(tzinfo=None)
GRANT = Grant(id=f"{BATCH}.0", key="a", method="GET", url="u", expires_at=NOW, limited_by="request")
SECRET = "whsec_" + "A" * 32

LIST = "must be a list or another iterable, not"
KEY = "must be a str, an Item, or a dict of its fields, not"
SECONDS = "must be a number of seconds or None, not"
LIMITED = "must be a finite number, and not negative"
SUBJECT = "must be a batch id, a handle, or a Grant or its id, not"
UUID7 = "must be a UUIDv7 in lower case, as new_id() returns"
NO_ID = (
    "must be a batch id (a UUIDv7 in lower case) or a grant id (with a dot and the item's number)"
)
ZONE = "must be a datetime with a time zone: set its tzinfo"
AS_TEXT = ": pass its text, like path.as_posix()"
AS_NUMBER = ": pass its total_seconds() as a number"
AS_GRANT = "grant must be a Grant, its handle or its id, not"

CLIENT: dict[str, str] = {
    "Client(broker_url=b'redis://h')": "broker_url must be a str or None, not a bytes",
    "Client(broker_url=6379)": "broker_url must be a str or None, not an int",
    "Client(result_url=Path('x'))": f"result_url must be a str or None, not a PosixPath{AS_TEXT}",
    "Client(tenant=7)": "tenant must be a str or None, not an int",
    "Client(requested_by=['ann'])": "requested_by must be a str or None, not a list",
    "Client(key=b'{}')": "key must be a str, a Path or None, not a bytes",
    "Client(key={'kty': 'OKP'})": "key must be a str, a Path or None, not a dict",
    "Client(timeout='30')": "timeout must be a number of seconds or None, not a str",
    "Client(timeout=timedelta(seconds=30))": f"timeout {SECONDS} a timedelta{AS_NUMBER}",
    "Client(timeout=True)": f"timeout {SECONDS} a bool",
    "Client(timeout=-1)": f"timeout {LIMITED}",
    "Client(timeout=float('nan'))": f"timeout {LIMITED}",
    "Client(timeout=float('inf'))": f"timeout {LIMITED}",
    "Client(retries=1.5)": "retries must be an int, not a float",
    "Client(retries=None)": "retries must be an int, not None",
    "Client(retries=-1)": f"retries {LIMITED}",
    "Client(min_left='60')": f"min_left {SECONDS} a str",
    "Client(min_left=-0.5)": f"min_left {LIMITED}",
    "Client(exit_timeout='5')": f"exit_timeout {SECONDS} a str",
    "AsyncClient(timeout='30')": f"timeout {SECONDS} a str",
    "AsyncClient(tenant=b'acme')": "tenant must be a str or None, not a bytes",
    "client.with_options(timeout='5')": f"timeout {SECONDS} a str",
    "client.with_options(retries='2')": "retries must be an int or None, not a str",
    "client.with_options(min_left=timedelta(1))": f"min_left {SECONDS} a timedelta{AS_NUMBER}",
    "client.with_options(requested_by=1)": "requested_by must be a str or None, not an int",
}
SINGLE: dict[str, str] = {
    "client.download('demo', None)": "key must be a str, not None",
    "client.download('demo', b'a')": "key must be a str, not a bytes",
    "client.download('demo', Path('a'))": f"key must be a str, not a PosixPath{AS_TEXT}",
    "client.download('demo', PurePosixPath('a'))": (
        f"key must be a str, not a PurePosixPath{AS_TEXT}"
    ),
    "client.download('demo', ['a', 'b'])": "key must be a str, not a list",
    "client.download('demo', Item(key='a'))": "key must be a str, not an Item",
    "client.download(None, 'a')": "bucket must be a str, not None",
    "client.download('demo')": (
        "RequestMethods.download() missing 1 required positional argument: 'key'"
    ),
    "client.download('demo', 'a', version_id=7)": "version_id must be a str or None, not an int",
    "client.download('demo', 'a', expires_in='1h')": "expires_in must be an int, not a str",
    "client.download('demo', 'a', expires_in=60.0)": "expires_in must be an int, not a float",
    "client.download('demo', 'a', expires_in=None)": "expires_in must be an int, not None",
    "client.download('demo', 'a', expires_in=True)": "expires_in must be an int, not a bool",
    "client.download('demo', 'a', expires_in=timedelta(hours=1))": (
        f"expires_in must be an int, not a timedelta{AS_NUMBER}"
    ),
    "client.download('demo', 'a', min_expires_in=timedelta(hours=1))": (
        f"min_expires_in must be an int or None, not a timedelta{AS_NUMBER}"
    ),
    "client.download('demo', 'a', inline='yes')": "inline must be a bool, not a str",
    "client.download('demo', 'a', inline=1)": "inline must be a bool, not an int",
    "client.download('demo', 'a', plain=None)": "plain must be a bool, not None",
    "client.download('demo', 'a', method=7)": "method must be 'GET' or 'HEAD', not an int",
    "client.download('demo', 'a', filename=Path('a.pdf'))": (
        f"filename must be a str or None, not a PosixPath{AS_TEXT}"
    ),
    "client.download('demo', 'a', expires=NAIVE)": f"expires {ZONE}",
    "client.download('demo', 'a', expires=0)": "expires must be a str, a datetime or None, not an "
    "int",
    "client.download('demo', 'a', deadline=NAIVE)": f"deadline {ZONE}",
    "client.download('demo', 'a', deadline='2026-11-24T12:00:00Z')": (
        "deadline must be a datetime or None, not a str"
    ),
    "client.download('demo', 'a', deadline=60)": "deadline must be a datetime or None, not an int",
    "client.download('demo', 'a', reason=5)": "reason must be a str or None, not an int",
    "client.download('demo', 'a', recipient=['ann'])": (
        "recipient must be a str or None, not a list"
    ),
    "client.download('demo', 'a', callback=print)": (
        "callback must be a str or None, not a builtin_function_or_method"
    ),
    "client.download('demo', 'a', batch_id='nightly')": f"batch_id {UUID7}",
    "client.download('demo', 'a', batch_id=uuid4())": f"batch_id {UUID7}",
    "client.download('demo', 'a', batch_id=BATCH.upper())": f"batch_id {UUID7}",
    "client.download('demo', 'a', batch_id=7)": (
        "batch_id must be a str, a UUID or None, not an int"
    ),
    "client.download('demo', 'a', batch_id=batch)": (
        "batch_id must be a str, a UUID or None, not a BatchHandle"
    ),
    "client.download('demo', 'a', expire_in=60)": "download has no option 'expire_in'",
    "client.download('demo', 'a', total=1)": "download has no option 'total'",
    "client.download('demo', 'a', max_size=5)": "download has no option 'max_size'",
    "client.upload('demo', 'a')": "upload needs the argument max_size",
    "client.upload('demo', 'a', max_size=None)": "max_size must be an int, not None",
    "client.upload('demo', 'a', max_size='5MB')": "max_size must be an int, not a str",
    "client.upload('demo', 'a', max_size=5e6)": "max_size must be an int, not a float",
    "client.upload('demo', 'a', max_size=5, size='5')": "size must be an int or None, not a str",
    "client.upload('demo', 'a', max_size=5, size=-1)": f"size {LIMITED}",
    "client.upload('demo', 'a', max_size=5, min_size=None)": "min_size must be an int, not None",
    "client.upload('demo', 'a', max_size=5, checksum='abc')": (
        "checksum must be a Checksum or None, not a str"
    ),
    "client.upload('demo', 'a', max_size=5, encryption='AES256')": (
        "encryption must be an Encryption or None, not a str"
    ),
    "client.upload('demo', 'a', max_size=5, metadata=[('a', 'b')])": (
        "metadata must be a dict or None, not a list"
    ),
    "client.upload('demo', 'a', max_size=5, metadata={'a': 1})": (
        "each value in metadata must be a str, not an int"
    ),
    "client.upload('demo', 'a', max_size=5, tags={1: 'a'})": (
        "each name in tags must be a str, not an int"
    ),
    "client.upload('demo', 'a', max_size=5, tags='a=b')": "tags must be a dict or None, not a str",
    "client.upload('demo', 'a', max_size=5, storage_class=1)": (
        "storage_class must be 'STANDARD', 'REDUCED_REDUNDANCY', 'STANDARD_IA', 'ONEZONE_IA', "
        "'INTELLIGENT_TIERING', 'GLACIER', 'DEEP_ARCHIVE', 'GLACIER_IR' or None, not an int"
    ),
    "client.upload('demo', 'a', max_size=5, success_status='201')": (
        "success_status must be 200, 201, 204 or None, not a str"
    ),
    "client.upload('demo', 'a', max_size=5, notify='upload.stored')": (
        "notify must be a list or None, not a str"
    ),
    "client.upload('demo', 'a', max_size=5, notify=[1])": (
        "notify[0] must be 'upload.stored', 'upload.unused' or 'upload.mismatched', not an int"
    ),
    "client.put('demo', 'a')": (
        "RequestMethods.put() missing 1 required keyword-only argument: 'size'"
    ),
    "client.put('demo', 'a', 5)": (
        "RequestMethods.put() takes 3 positional arguments but 4 were given"
    ),
    "client.put('demo', 'a', size=None)": "size must be an int, not None",
    "client.put('demo', 'a', size='5')": "size must be an int, not a str",
    "client.put('demo', 'a', size=5.0)": "size must be an int, not a float",
    "client.put('demo', 'a', size=Decimal(5))": "size must be an int, not a Decimal",
    "client.put('demo', 'a', size=-1)": f"size {LIMITED}",
    "client.put('demo', 'a', size=5, overwrite='no')": "overwrite must be a bool, not a str",
    "client.put('demo', 'a', size=5, checksum=b'abc')": (
        "checksum must be a Checksum or None, not a bytes"
    ),
    "client.multipart('demo', 'a', size=None)": "size must be an int, not None",
    "client.multipart('demo', 'a', size=5, part_size='5MB')": (
        "part_size must be an int or None, not a str"
    ),
    "client.parts('demo', BATCH)": "grant must be a Grant, not a str",
    "client.parts('demo', handle)": "grant must be a Grant, not a GrantHandle",
    "client.parts('demo', None)": "grant must be a Grant, not None",
    "client.parts('demo', GRANT, first='1')": "first must be an int, not a str",
    "client.parts('demo', GRANT, last=1.0)": "last must be an int or None, not a float",
    "client.parts('demo', GRANT)": "the upload has 0 parts: first and last must be among them",
}
MANY: dict[str, str] = {
    "client.download_many('demo', 'abc')": f"keys {LIST} a str",
    "client.download_many('demo', b'abc')": f"keys {LIST} a bytes",
    "client.download_many('demo', {'key': 'a'})": f"keys {LIST} a dict",
    "client.download_many('demo', OrderedDict(a=1))": f"keys {LIST} an OrderedDict",
    "client.download_many('demo', None)": f"keys {LIST} None",
    "client.download_many('demo', 3)": f"keys {LIST} an int",
    "client.download_many('demo', Path('keys.txt'))": f"keys {LIST} a PosixPath{AS_TEXT}",
    "client.download_many('demo', ['a', None])": f"keys[1] {KEY} None",
    "client.download_many('demo', ['a', b'b'])": f"keys[1] {KEY} a bytes",
    "client.download_many('demo', [Path('a')])": f"keys[0] {KEY} a PosixPath{AS_TEXT}",
    "client.download_many('demo', [('a', 1)])": f"keys[0] {KEY} a tuple",
    "client.download_many('demo', (n for n in range(3)))": f"keys[0] {KEY} an int",
    "client.download_many('demo', [{}])": "keys[0].key must be a str, not None",
    "client.download_many('demo', [{'key': b'a'}])": "keys[0].key must be a str, not a bytes",
    "client.download_many('demo', ['a', {'key': 'a', 'ref': 7}])": (
        "keys[1].ref must be a str or None, not an int"
    ),
    "client.download_many('demo', [{'key': 'a', 'name': 'b'}])": (
        "keys[0] has a field that an Item does not have: 'name'"
    ),
    "client.download_many('demo', pages())": "items from an async iterable need an AsyncClient",
    "client.download_many('demo', ['a'], total='1')": "total must be an int or None, not a str",
    "client.download_many('demo', ['a'], total=-1)": f"total {LIMITED}",
    "client.download_many('demo', ['a'], chunk_size=0)": "chunk_size must be from 1 to 1000, not 0",
    "client.download_many('demo', ['a'], chunk_size=None)": "chunk_size must be an int, not None",
    "client.download_many('demo', ['a'], first_chunk='0')": "first_chunk must be an int, not a str",
    "client.download_many('demo', ['a'], first_chunk=2)": (
        "the batch has 1 chunks: first_chunk must be from 0 to 1"
    ),
    "client.download_many('demo', ['a'], manifest=Path('m'))": (
        f"manifest must be a str or None, not a PosixPath{AS_TEXT}"
    ),
    "client.download_many('demo', ['a'], progress=True)": (
        "progress must be a Callable or None, not a bool"
    ),
    "client.download_many('demo', ['a'], expires_in=timedelta(1))": (
        f"expires_in must be an int, not a timedelta{AS_NUMBER}"
    ),
    "client.download_many('demo', ['a'], batch_id='x')": f"batch_id {UUID7}",
    "client.upload_many('demo', 'abc', max_size=5)": f"keys {LIST} a str",
    "client.upload_many('demo', ['a'])": "upload_many needs the argument max_size",
    "client.upload_many('demo', [None], max_size=5)": f"keys[0] {KEY} None",
    "client.put_many('demo', 'abc')": f"items {LIST} a str",
    "client.put_many('demo', Item(key='a', size=1))": (f"the items of a batch {LIST} an Item"),
    "client.put_many('demo', ['a'])": (
        "items[0] must be an Item, or a dict of its fields, not a str"
    ),
    "client.put_many('demo', [Item(key='a', size=1), Item(key='b')])": (
        "items[1].size must be an int, not None"
    ),
    "client.put_many('demo', [{'key': 'a'}])": "items[0].size must be an int, not None",
    "client.put_many('demo', [{'key': 'a', 'size': '7'}])": (
        "items[0].size must be an int or None, not a str"
    ),
    "client.put_many('demo', [{'size': 7}])": "items[0].key must be a str, not None",
    "client.put_many('demo', [('a', 7)])": (
        "items[0] must be an Item, or a dict of its fields, not a tuple"
    ),
    "client.put_many('demo', [Item(key='a')], max_size=5)": (
        "items[0].size must be an int, not None"
    ),
    "client.explain().download('demo', None)": "key must be a str, not None",
    "client.explain().download_many('demo', 'abc')": f"keys {LIST} a str",
    "client.explain().download_many('demo', [])": (
        "there are no items to explain: pass at least one"
    ),
    "client.explain(timeout='5')": f"timeout {SECONDS} a str",
}
QUERIES: dict[str, str] = {
    "client.usage(timeout='5')": f"timeout {SECONDS} a str",
    "client.usage(timeout=-1)": f"timeout {LIMITED}",
    "client.service(timeout=b'5')": f"timeout {SECONDS} a bytes",
    "client.flush('5')": f"timeout {SECONDS} a str",
    "client.batch(None)": f"batch {SUBJECT} None",
    "client.batch(7)": f"batch {SUBJECT} an int",
    "client.batch(b'x')": f"batch {SUBJECT} a bytes",
    "client.batch('nightly')": f"batch {NO_ID}",
    "client.batch('')": f"batch {NO_ID}",
    "client.batch(uuid4())": f"batch {NO_ID}",
    "client.batch(BATCH, '5')": f"timeout {SECONDS} a str",
    "client.status(None)": f"subject {SUBJECT} None",
    "client.status([BATCH])": f"subject {SUBJECT} a list",
    "client.status('https://h/a?X-Amz-Signature=s3cret')": f"subject {NO_ID}",
    "client.status(f'{BATCH}.x')": f"subject {NO_ID}",
    "client.status(BATCH, probe='no')": "probe must be a bool, not a str",
    "client.status(BATCH, timeout=timedelta(1))": f"timeout {SECONDS} a timedelta{AS_NUMBER}",
    "client.cancel(None)": f"batch {SUBJECT} None",
    "client.cancel('no id')": f"batch {NO_ID}",
    "client.cancel(BATCH, 5)": "reason must be a str or None, not an int",
    "client.cancel(BATCH, requested_by=5)": "requested_by must be a str or None, not an int",
    "client.cancel(BATCH, abort_uploads='yes')": "abort_uploads must be a bool, not a str",
    "client.reissue(None)": f"{AS_GRANT} None",
    "client.reissue(batch)": f"{AS_GRANT} a BatchHandle",
    "client.reissue('https://h/a?X-Amz-Signature=s3cret')": f"grant {NO_ID}",
    "client.reissue(BATCH)": (
        "grant is the id of a batch: add a dot and the item's number, as in the id of a Grant"
    ),
    "client.reissue(GRANT, expires_in='60')": "expires_in must be an int or None, not a str",
    "client.reissue(GRANT, batch_id='x')": f"batch_id {UUID7}",
    "client.reissue(GRANT, filename='x')": "reissue has no option 'filename'",
}
HANDLES: dict[str, str] = {
    "handle.result('5')": f"timeout {SECONDS} a str",
    "handle.result(-1)": f"timeout {LIMITED}",
    "handle.stored('5')": "timeout must be a number of seconds, not a str",
    "handle.stored(None)": "timeout must be a number of seconds, not None",
    "batch.results('5')": f"timeout {SECONDS} a str",
    "batch.results(timedelta(5))": f"timeout {SECONDS} a timedelta{AS_NUMBER}",
    "batch.as_completed('5')": f"timeout {SECONDS} a str",
    "batch.manifest(None)": "timeout must be a number of seconds, not None",
    "batch.manifest('5')": "timeout must be a number of seconds, not a str",
    "batch.stored('a')": "item must be an int, not a str",
    "batch.stored(GRANT)": "item must be an int, not a Grant",
    "batch.stored(3)": "the batch has 1 items: item must be one of them, from 0",
    "batch.stored(0, 'x')": "timeout must be a number of seconds, not a str",
    "upload.parts('1')": "first must be an int, not a str",
    "upload.parts(last='9')": "last must be an int or None, not a str",
    "upload.parts(expires_in=timedelta(1))": (
        f"expires_in must be an int, not a timedelta{AS_NUMBER}"
    ),
    "MultipartUploader(GRANT, Path('film'))": "upload must be a MultipartHandle, not a Grant",
    "MultipartUploader(upload, 'film')": "path must be a Path, not a str",
    "MultipartUploader(upload, Path('film'), parallel=0)": (
        "parallel must be a finite number over 0"
    ),
    "MultipartUploader(upload, Path('film'), on_progress=None)": (
        "on_progress must be a Callable, not None"
    ),
    "MultipartUploader(upload, Path('film'), timeout='5')": (
        "timeout must be a number of seconds, not a str"
    ),
}
OTHERS: dict[str, str] = {
    "unwrap('{}', {}, SECRET)": "body must be a bytes, not a str",
    "unwrap({}, {}, SECRET)": "body must be a bytes, not a dict",
    "unwrap(b'{}', None, SECRET)": "headers must be a mapping, like the headers of a request, not "
    "None",
    "unwrap(b'{}', [(b'webhook-id', b'1')], SECRET)": (
        "headers must be a mapping, like the headers of a request, not a list"
    ),
    "unwrap(b'{}', {b'webhook-id': b'1'}, SECRET)": (
        "headers must be names and values of the type str: decode the bytes"
    ),
    "unwrap(b'{}', {}, None)": "secrets must be a str or a list, not None",
    "unwrap(b'{}', {}, SECRET.encode())": "secrets must be a str or a list, not a bytes",
    "unwrap(b'{}', {}, [None])": "secrets[0] must be a str, not None",
    "unwrap(b'{}', {}, SECRET, now=NAIVE)": f"now {ZONE}",
    "unwrap(b'{}', {}, SECRET, now=0)": "now must be a datetime or None, not an int",
    "unwrap(b'{}', {}, SECRET, tolerance=300)": "tolerance must be a timedelta, not an int",
    "sign('{}', 'id', NAIVE, SECRET)": "body must be a bytes, not a str",
    "sign(b'{}', 'id', NAIVE, SECRET)": f"timestamp {ZONE}",
    "example_body('upload.store')": f"event_type must be one of {', '.join(EVENT_TYPES)}",
    "parse_size(5)": "text must be a str, not an int",
    "parse_size(None)": "text must be a str, not None",
    "parse_duration(timedelta(1))": f"text must be a str, not a timedelta{AS_NUMBER}",
}
WRONG_USES = CLIENT | SINGLE | MANY | QUERIES | HANDLES | OTHERS


async def pages() -> AsyncIterator[str]:
    yield "a"


NAMES: dict[str, Any] = {"BATCH": BATCH, "GRANT": GRANT, "NAIVE": NAIVE, "SECRET": SECRET} | {
    each.__name__: each
    for each in (
        *(AsyncClient, Client, Decimal, Item, MultipartUploader, OrderedDict, Path, PurePosixPath),
        *(example_body, pages, parse_duration, parse_size, sign, timedelta, unwrap, uuid4),
    )
}


def undecided_batch() -> BatchProgress:
    return BatchProgress({"batch": BATCH, "total": 1, "chunk_size": 1}, iter([]))


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    """The names that the wrong uses can use: a client, and handles without one."""
    client, no_session = Client(BROKER, tenant="acme", requested_by="test"), cast("Any", None)
    batch = BatchHandle(no_session, undecided_batch())
    handle, upload = GrantHandle(batch), MultipartHandle(batch, partial(client.parts, "demo"))
    yield NAMES | {"client": client, "batch": batch, "handle": handle, "upload": upload}
    client.close()


@pytest.mark.parametrize("use", WRONG_USES)
def test_a_wrong_use_is_refused_in_one_sentence(names: dict[str, Any], use: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        eval(use, names)  # noqa: S307 - the uses above
    assert str(caught.value) == WRONG_USES[use]


ASYNC_USES = {
    use: text.replace("a BatchHandle", "an AsyncBatchHandle")
    for use, text in (QUERIES | HANDLES).items()
    if "MultipartUploader" not in use
} | {"client.parts('demo', handle)": "grant must be a Grant, not an AsyncGrantHandle: await it"}


@pytest.mark.parametrize("use", ASYNC_USES)
def test_a_wrong_use_of_the_async_client_is_refused_in_the_same_sentence(use: str) -> None:
    async def run() -> None:
        client, no_session = AsyncClient(BROKER, tenant="acme"), cast("Any", None)
        batch = AsyncBatchHandle(no_session, undecided_batch())
        handle = AsyncGrantHandle(batch)
        upload = AsyncMultipartHandle(batch, partial(client.parts, "demo"))
        handles = {"client": client, "batch": batch, "handle": handle, "upload": upload}
        try:
            await eval(use, NAMES | handles)  # noqa: S307 - the uses above
        finally:
            await client.close()

    with pytest.raises((TypeError, ValueError)) as caught:
        asyncio.run(run())
    assert str(caught.value) == ASYNC_USES[use]


RIGHT_USES: list[Callable[[Any], object]] = [
    lambda client: client.download("demo", "a", batch_id=UUID(new_id()), deadline=NOW),
    lambda client: client.download("demo", "a", expires=NOW, min_expires_in=None),
    lambda client: client.upload("demo", "a", max_size=5, notify={"upload.stored"}, tags={}),
    lambda client: client.put("demo", "a", size=0, checksum=None),
    lambda client: client.put_many("demo", [{"key": "a", "size": 1, "ref": None}]),
    lambda client: client.put_many("demo", iter([Item(key="a", size=0)])),
    lambda client: client.download_many("demo", {"a", "b"}, progress=lambda *_: None),
    lambda client: client.download_many("demo", ["a", Item(key="b"), {"key": "c"}]),
    lambda client: client.with_options(timeout=None, min_left=0).usage(timeout=1),
    lambda client: client.status(UUID(BATCH)),
    lambda client: client.reissue(GRANT, reason=None),
]


@pytest.mark.parametrize("use", RIGHT_USES)
def test_a_right_use_is_sent(use: Callable[[Any], object]) -> None:
    client = Client(BROKER, tenant="acme", requested_by="test", timeout=1)
    with pytest.raises(BrokerUnreachable):
        use(client)
    client.close()


def test_items_that_are_read_as_they_are_sent_are_checked_then() -> None:
    items = iter(checked_items("download", iter(["a", "b", None])))  # type: ignore[arg-type]
    assert [next(items), next(items)] == ["a", "b"]
    with pytest.raises(TypeError, match=r"^keys\[2\] must be a str, .*, not None$"):
        next(items)


def test_items_of_an_async_iterable_are_checked_as_they_are_read() -> None:
    async def rows() -> AsyncIterator[Any]:
        yield {"key": "a", "size": 1}
        yield {"key": "b"}

    async def run() -> list[Any]:
        return [item async for item in checked_items("put", rows())]  # type: ignore[union-attr]

    with pytest.raises(TypeError, match=r"^items\[1\]\.size must be an int, not None$"):
        asyncio.run(run())


def test_a_checked_method_of_an_async_client_is_still_a_coroutine_function() -> None:
    assert asyncio.iscoroutinefunction(AsyncClient.usage)


def test_a_checked_function_keeps_its_name_and_documentation() -> None:
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    function = checked(double)
    assert (function.__name__, function.__doc__, function(4)) == ("double", "Double a number.", 8)
