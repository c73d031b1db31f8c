"""A manifest through the real queue, workers and storage, and every link in it."""

import gzip
import hashlib
import json
from urllib.request import urlopen

import redis

from tests.acceptance.conftest import Service
from worker.devstack.folder import StorageKeys
from worker.devstack.s3 import s3_client as s3

KEYS = [f"acme/{number}" for number in range(24)]


def fetched(url: str) -> bytes:
    with urlopen(url) as answer:  # noqa: S310 - the service's URL
        content: bytes = answer.read()
        return content


def results(service: Service, batch: str) -> list[bytes]:
    with redis.Redis.from_url(service.up.running.result_url) as server:
        return [server.get(name) or b"" for name in server.scan_iter(f"*{batch}*")]


def test_a_manifest_holds_links_that_work_and_redis_none_of_them(service: Service) -> None:
    running = service.up.running
    storage = s3(
        running.s3_endpoint, StorageKeys(running.s3_access_key, running.s3_secret_key), "us-east-1"
    )
    storage.put_object(Bucket="valetkey-demo", Key=KEYS[0], Body=b"content")
    with service.signing_client() as client:
        batch = client.download_many("demo", [*KEYS, "outside"], manifest="acme/all.jsonl.gz")
        found = batch.manifest(60)
    content = fetched(found.grant.url)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (found.bytes, found.sha256)
    lines = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert [line["key"] for line in lines] == [*KEYS, "outside"]
    assert (found.issued, found.refused, lines[-1]["code"]) == (24, 1, "key_outside_prefix")
    assert fetched(lines[0]["url"]) == b"content"
    kept = results(service, batch.id)
    assert (len(kept), len(kept[0]) < 1_500) == (1, True)
    assert found.grant.url not in service.written
