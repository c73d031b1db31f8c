"""A manifest through the real queue, workers and storage."""

import gzip
import hashlib
import json
from urllib.request import urlopen

import redis

from tests.acceptance.conftest import Service
from worker.devstack.folder import StorageKeys
from worker.devstack.s3 import s3_client

KEYS = [f"acme/{number}" for number in range(24)]


def fetch(url: str) -> bytes:
    with urlopen(url) as response:  # noqa: S310 - the service's URL
        content: bytes = response.read()
        return content


def results(service: Service, batch: str) -> list[bytes]:
    with redis.Redis.from_url(service.stack.info.result_url) as server:
        return [server.get(name) or b"" for name in server.scan_iter(f"*{batch}*")]


def test_a_manifest_has_working_links_and_redis_has_none_of_them(service: Service) -> None:
    info = service.stack.info
    storage = s3_client(
        info.s3_endpoint, StorageKeys(info.s3_access_key, info.s3_secret_key), "us-east-1"
    )
    storage.put_object(Bucket="valetkey-demo", Key=KEYS[0], Body=b"content")
    with service.signing_client() as client:
        batch = client.download_many("demo", [*KEYS, "outside"], manifest="acme/all.jsonl.gz")
        manifest = batch.manifest(60)
    content = fetch(manifest.grant.url)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (manifest.bytes, manifest.sha256)
    lines = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert [line["key"] for line in lines] == [*KEYS, "outside"]
    assert (manifest.issued, manifest.refused, lines[-1]["code"]) == (24, 1, "key_outside_prefix")
    assert fetch(lines[0]["url"]) == b"content"
    stored_results = results(service, batch.id)
    assert (len(stored_results), len(stored_results[0]) < 1_500) == (1, True)
    assert manifest.grant.url not in service.logs
