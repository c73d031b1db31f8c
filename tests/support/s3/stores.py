"""Real S3 servers, and grants that one service issues for their buckets."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from tests.support.builders import messages
from tests.support.builders.services import InProcessService
from valetkey.signing.signers import SIGNERS
from valetkey.signing.signing_context import NO_UPLOAD, SigningContext, Validity
from valetkey.signing.sigv4 import Credentials, Target
from valetkey.wire.messages import Item
from valetkey.wire.replies import Grant
from valetkey.wire.terms import AnyTerms
from worker import clock
from worker.dev.embedded_servers import Storage
from worker.rules.tenant_config import Bucket, Policy, Tenant, TenantConfig

SERVERS = ("seaweedfs", "ministack")
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
Checksum = Mapping[str, str] | None
_terms: TypeAdapter[AnyTerms] = TypeAdapter(AnyTerms)


def tenant_config(storages: Mapping[str, Storage]) -> TenantConfig:
    """Return a tenant, and bucket profiles for each server and for a role."""
    buckets = {
        name: Bucket(
            name, BUCKET, storage.region, "path", storage.endpoint, profile=name, owner=OWNER
        )
        for name, storage in storages.items()
    }
    for name, profile in tuple(buckets.items()):
        buckets[free_name_profile(name)] = replace(profile, name=free_name_profile(name))
        buckets[versioned_profile(name)] = replace(
            profile, name=versioned_profile(name), bucket=VERSIONED_BUCKET
        )
    role = f"arn:aws:iam::{OWNER}:role/{ROLE}"
    buckets["assumed"] = replace(buckets[SERVERS[1]], name="assumed", role_arn=role)
    return TenantConfig(buckets, {"acme": Tenant("acme", "queue", policies=_policies(buckets))})


def _policies(buckets: Mapping[str, Bucket]) -> dict[str, Policy]:
    policy = replace(
        messages.POLICY,
        max_size=6_000_000,
        content_types=(*messages.POLICY.content_types, "video/*"),
        inline=("image/png",),
        overrides=("cache_control", "content_language", "content_encoding", "expires"),
        storage_classes=("STANDARD_IA",),
        redirects=("https://app.example/",),
        overwrite=True,
        plain=True,
    )
    free_name_buckets = {free_name_profile(name) for name in SERVERS}
    return {
        name: replace(policy, bucket=name, free_names=name in free_name_buckets) for name in buckets
    }


def free_name_profile(server: str) -> str:
    """Return the profile whose forms may leave the end of the object key to the client."""
    return f"{server}-free"


def versioned_profile(server: str) -> str:
    """Return the profile of the versioned bucket."""
    return f"{server}-versioned"


def new_key() -> str:
    """Return an object key that no other test uses."""
    return f"acme/{uuid.uuid4().hex}.png"


@dataclass(frozen=True)
class Store:
    """One server with two buckets, and the service that issues grants for the first."""

    name: str
    storage: Storage
    client: Any
    issuer: InProcessService = field(repr=False)

    def issue(self, *items: Mapping[str, Any], **terms: Any) -> dict[str, Any]:
        """Request grants for these items on these terms; return the outcome."""
        grant = {"kind": "download", "bucket": self.name, "expires_in": 300, **terms}
        keys = [item["key"] for item in items]
        message = messages.grant_message(keys, grant=grant)
        return self.issuer.issue(message | {"items": list(items)})

    def issue_grants(self, *items: Mapping[str, Any], **terms: Any) -> list[Grant]:
        """Request grants for these items; fail if the request is refused."""
        outcome = self.issue(*items, **terms)
        assert outcome["status"] == "issued", outcome["refusal"]
        return [Grant(**item) for item in outcome["items"]]

    def download(self, key: str, **terms: Any) -> Grant:
        return self.issue_grants({"key": key}, **{**DOWNLOAD, **terms})[0]

    def upload(self, key: str, checksum: Checksum = None, **terms: Any) -> Grant:
        return self.issue_grants({"key": key, "checksum": checksum}, **{**UPLOAD, **terms})[0]

    def put(self, key: str, size: int, checksum: Checksum = None, **terms: Any) -> Grant:
        item = {"key": key, "size": size, "checksum": checksum}
        return self.issue_grants(item, **{**PUT, **terms})[0]

    def multipart(self, key: str, size: int, **terms: Any) -> Grant:
        return self.issue_grants({"key": key, "size": size}, **{**MULTIPART, **terms})[0]

    def parts(self, upload: Grant, *numbers: int) -> list[Grant]:
        items = [{"key": upload.key, "part": number} for number in numbers]
        return self.issue_grants(*items, kind="parts", of=upload.id)

    def refusal_code(self, key: str = "acme/a.png", **terms: Any) -> str | None:
        """Return the code with which a request for one key, or its item, is refused."""
        size = {"size": 20} if terms.get("kind") in {"put", "multipart"} else {}
        outcome = self.issue({"key": key, **size}, **terms)
        refusal: dict[str, str] = outcome.get("refusal") or outcome["items"][0]
        return refusal.get("code")

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
        """Sign a grant that the service would not issue: other times, bucket, region or keys."""
        own_credentials = Credentials(self.storage.access_key, self.storage.secret_key)
        region = region or self.storage.region
        context = SigningContext(
            bucket,
            None,
            Target("http", self.storage.endpoint.removeprefix("http://"), f"/{BUCKET}/", region),
            replace(own_credentials, **credentials),
            Validity(clock.now() + issued, expires_in, "request"),
        )
        grant_terms = _terms.validate_python({"bucket": self.name, "expires_in": 300, **terms})
        sign_item = SIGNERS[grant_terms.kind](grant_terms, context)
        signed = sign_item(f"{messages.batch_id()}.0", Item.model_validate(item), NO_UPLOAD)
        return Grant(**signed[0])

    def put_object(self, key: str, body: bytes, **more: Any) -> None:
        """Store an object directly, without a grant."""
        self.client.put_object(**{"Bucket": BUCKET, "Key": key, "Body": body, **more})

    def get_object(self, key: str) -> dict[str, Any]:
        """Return an object as stored, with its content as Body."""
        stored = self.client.get_object(Bucket=BUCKET, Key=key)
        return {**stored, "Body": stored["Body"].read()}

    def objects(self) -> set[tuple[str, str, str]]:
        """Return bucket, key and ETag of all objects in both buckets."""
        return {
            (bucket, item["Key"], item["ETag"])
            for bucket in (BUCKET, OTHER_BUCKET)
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for item in page.get("Contents", ())
        }

    def has_object(self, key: str) -> bool:
        return any(stored[:2] == (BUCKET, key) for stored in self.objects())

    def delete_objects(self) -> None:
        for bucket, key, _ in self.objects():
            self.client.delete_object(Bucket=bucket, Key=key)
