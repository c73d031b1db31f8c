"""Real S3 servers, and the grants that one Answering gives for their buckets."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from tests.support.builders import messages
from tests.support.builders.services import InProcessService
from valetkey.wire.messages import Grant, Item
from valetkey.wire.terms import AnyTerms
from worker import clock
from worker.core.policy.decisions import NO_UPLOAD, Validity
from worker.core.signing.signer import SigningContext, item_signer
from worker.core.signing.sigv4 import Credentials, Target
from worker.core.tenants.config import Bucket, Policy, Tenant, TenantConfig
from worker.devstack.storage import Storage

SERVERS = ("seaweedfs", "ministack")
TENANTS = ("acme", "acme2", "umbrella")
OWNER = "000000000000"  # MiniStack's account
BUCKET, OTHER_BUCKET, VERSIONED_BUCKET = "contract", "contract-other", "contract-versioned"
ROLE = "contract"
DOWNLOAD: Mapping[str, Any] = {"kind": "download"}
UPLOAD: Mapping[str, Any] = {
    "kind": "upload",
    "min_size": 10,
    "max_size": 100,
    "content_type": "image/png",
    "metadata": {"origin": "camera 7"},
}
PUT: Mapping[str, Any] = {
    "kind": "put",
    "max_size": 100,
    "content_type": "image/png",
    "metadata": {"origin": "camera 7"},
    "overwrite": True,
}
MULTIPART: Mapping[str, Any] = {"kind": "multipart", "max_size": 6_000_000, "part_size": 5_242_880}
_terms: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)


def declared(storages: Mapping[str, Storage]) -> TenantConfig:
    """Bucket profiles of each server, others for what only one is asked for, and the tenants."""
    buckets = {
        name: Bucket(
            name, BUCKET, storage.region, "path", storage.endpoint, profile=name, owner=OWNER
        )
        for name, storage in storages.items()
    }
    first, second = (buckets[name] for name in SERVERS)
    for name, own in tuple(buckets.items()):
        buckets[free_named(name)] = replace(own, name=free_named(name))
        buckets[versioned(name)] = replace(own, name=versioned(name), bucket=VERSIONED_BUCKET)
    role = f"arn:aws:iam::{OWNER}:role/{ROLE}"
    buckets["assumed"] = replace(second, name="assumed", role_arn=role)
    buckets["formless"] = replace(first, name="formless", post=False)
    buckets["short-lived"] = replace(first, name="short-lived", profile="short-lived")
    tenants = {name: Tenant(name, "queue", policies=_policies(name, buckets)) for name in TENANTS}
    return TenantConfig(buckets, tenants)


def _policies(tenant: str, buckets: Mapping[str, Bucket]) -> dict[str, Policy]:
    own = replace(
        messages.POLICY,
        prefixes=(f"{tenant}/",),
        max_size=6_000_000,
        content_types=(*messages.POLICY.content_types, "video/*"),
        inline=("image/png",),
        overrides=("cache_control", "content_language", "content_encoding", "expires"),
        storage_classes=("STANDARD_IA",),
        redirects=("https://app.example/",),
        overwrite=True,
    )
    free = {free_named(name) for name in SERVERS}
    return {name: replace(own, bucket=name, free_names=name in free) for name in buckets}


def free_named(server: str) -> str:
    """The profile in which a form may leave the end of its key to the client."""
    return f"{server}-free"


def versioned(server: str) -> str:
    """The profile of the bucket that keeps every version."""
    return f"{server}-versioned"


def fresh() -> str:
    """A key that nothing else uses."""
    return f"acme/{uuid.uuid4().hex}.png"


@dataclass(frozen=True)
class Store:
    """One server: its two buckets, and what is granted for the first."""

    name: str
    storage: Storage
    client: Any
    issuer: InProcessService = field(repr=False)

    def ask(self, *items: Mapping[str, Any], tenant: str = "acme", **terms: Any) -> dict[str, Any]:
        """The Answering's answer to a request for these items on these terms."""
        grant = {"kind": "download", "bucket": self.name, "expires_in": 300, **terms}
        keys = [item["key"] for item in items]
        message = messages.grant_message(keys, tenant=tenant, grant=grant)
        return self.issuer.issue(message | {"items": list(items)})

    def grants(self, *items: Mapping[str, Any], **terms: Any) -> list[Grant]:
        answer = self.ask(*items, **terms)
        assert answer["status"] == "issued", answer["refusal"]
        return [Grant(**item) for item in answer["items"]]

    def download(self, key: str, **terms: Any) -> Grant:
        (grant,) = self.grants({"key": key}, **{**DOWNLOAD, **terms})
        return grant

    def upload(self, key: str, **terms: Any) -> Grant:
        (grant,) = self.grants({"key": key}, **{**UPLOAD, **terms})
        return grant

    def put(
        self, key: str, size: int, checksum: Mapping[str, str] | None = None, **terms: Any
    ) -> Grant:
        item = {"key": key, "size": size} | ({"checksum": checksum} if checksum else {})
        (grant,) = self.grants(item, **{**PUT, **terms})
        return grant

    def multipart(self, key: str, size: int, **terms: Any) -> Grant:
        (grant,) = self.grants({"key": key, "size": size}, **{**MULTIPART, **terms})
        return grant

    def parts(self, of: Grant, *parts: int) -> list[Grant]:
        items = [{"key": of.key, "part": part} for part in parts]
        return self.grants(*items, kind="parts", of=of.id)

    def refused(self, key: str = "acme/a.png", **terms: Any) -> str | None:
        """The code by which a request for one key is refused, as a batch or as its item."""
        size = {"size": 20} if terms.get("kind") in {"put", "multipart"} else {}
        answer = self.ask({"key": key, **size}, **terms)
        found: dict[str, str] = answer.get("refusal") or answer["items"][0]
        return found.get("code")

    def sign(
        self,
        terms: Mapping[str, Any],
        item: Mapping[str, Any],
        *,
        issued: timedelta = timedelta(),
        expires_in: int = 300,
        bucket: str = BUCKET,
        region: str | None = None,
        **credentials: Any,
    ) -> Grant:
        """What no Answering gives: signed at another time, for longer, elsewhere, or by others."""
        own = Credentials(self.storage.access_key, self.storage.secret_key)
        region = region or self.storage.region
        place = SigningContext(
            Bucket(self.name, bucket, region),
            Target("http", self.storage.endpoint.removeprefix("http://"), f"/{BUCKET}/", region),
            replace(own, **credentials),
            Validity(clock.now() + issued, expires_in, "request"),
        )
        read = _terms.validate_python({"bucket": self.name, "expires_in": 300, **terms})
        signed = item_signer(read, place)(
            f"{messages.batch_id()}.0", Item.model_validate(item), NO_UPLOAD
        )
        return Grant(**signed[0])

    def store(self, key: str, body: bytes, **more: Any) -> None:
        """Put an object there, by no grant."""
        self.client.put_object(**{"Bucket": BUCKET, "Key": key, "Body": body, **more})

    def stored(self, key: str) -> dict[str, Any]:
        """An object as the server has it, its content under Body."""
        found = self.client.get_object(Bucket=BUCKET, Key=key)
        return {**found, "Body": found["Body"].read()}

    def objects(self) -> set[tuple[str, str, str]]:
        """Everything in both buckets: bucket, key and a digest of the content."""
        return {
            (bucket, found["Key"], found["ETag"])
            for bucket in (BUCKET, OTHER_BUCKET)
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for found in page.get("Contents", ())
        }

    def holds(self, key: str) -> bool:
        """Whether something is stored under a key."""
        return any(place[:2] == (BUCKET, key) for place in self.objects())

    def empty(self) -> None:
        """Remove everything from both buckets."""
        for bucket, key, _ in self.objects():
            self.client.delete_object(Bucket=bucket, Key=key)
