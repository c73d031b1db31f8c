"""The form of tenants.toml, table by table. A field's description is its hint where it is wrong."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from valetkey.refusals import Window
from worker.core import fields
from worker.core.fields import wrong
from worker.core.tenancy import Addressing, Bucket, Declared, Endpoint, Policy, Quota, Tenant


class Table(BaseModel):
    """Strict: an unknown field is refused, as a misspelt limit would limit nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class BucketTable(Table):
    """[buckets.NAME]: a bucket profile."""

    bucket: fields.RealBucket = Field(description="the real bucket's name")
    region: fields.Region = Field(description="as it stands in signatures, like eu-central-1")
    addressing: Addressing = Field("virtual", validate_default=True)
    endpoint: fields.S3Endpoint | None = None
    profile: fields.Profile | None = None

    @field_validator("addressing")
    @classmethod
    def _has_a_certificate(cls, value: Addressing, info: ValidationInfo) -> Addressing:
        # AWS: VirtualHosting.html; its wildcard certificate covers one label.
        if value == "virtual" and "." in info.data.get("bucket", ""):
            raise wrong('a bucket with a dot has no certificate as a host: addressing = "path"')
        return value


class PolicyTable(Table):
    """[tenants.NAME.allow.BUCKET]: what the tenant may ask for in a bucket profile."""

    prefixes: fields.Prefixes = Field(description='like ["acme/"], or ["*"] for the whole bucket')
    kinds: fields.Kinds = Field(description='"download", "upload" or both')
    max_expires_in: fields.Life = Field(3_600, description="like 15m, 12h or 7d, the longest")
    max_size: fields.PostSize | None = Field(
        None, description="like 500KiB or 5GiB, the largest", validate_default=True
    )
    content_types: fields.ContentTypes = ("application/octet-stream",)
    acls: fields.Acls = ()

    @field_validator("max_size")
    @classmethod
    def _limits_uploads(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and "upload" in info.data.get("kinds", ()):
            raise wrong("uploads need a largest size")
        return value

    def declared(self, bucket: str) -> Policy:
        """In the worker's form; where nothing can be uploaded the largest size is 0."""
        return Policy(bucket=bucket, **self.model_dump() | {"max_size": self.max_size or 0})


class QuotaTable(Table):
    """[tenants.NAME.quotas]: the limit of each window (UTC), by metric."""

    grants: dict[Window, fields.Count] = {}
    upload_bytes: dict[Window, fields.Bytes] = {}

    def declared(self) -> tuple[Quota, ...]:
        """In the worker's form, in the order of the database's key."""
        return (
            *(Quota("grants", window, limit) for window, limit in sorted(self.grants.items())),
            *(Quota("upload_bytes", window, n) for window, n in sorted(self.upload_bytes.items())),
        )


class EndpointTable(Table):
    """[tenants.NAME.endpoints.NAME]: where a request's callback may point."""

    url: fields.WebhookUrl = Field(description="https://, a public host, port 443 or 8443")
    secret: fields.SecretReference = Field(description="env:NAME or file:PATH")


class TenantTable(Table):
    """[tenants.NAME]: whom a producer acts for."""

    trust: Literal["queue"] = Field(
        description='trust = "queue" says that whoever can write to the queue speaks for the tenant'
    )
    max_batch: fields.BatchSize = 100_000
    allow: dict[fields.KnownBucket, PolicyTable] = {}
    quotas: QuotaTable = QuotaTable()
    endpoints: dict[fields.Name, EndpointTable] = {}

    def declared(self, name: str) -> Tenant:
        """In the worker's form."""
        return Tenant(
            name=name,
            trust=self.trust,
            max_batch=self.max_batch,
            policies={bucket: policy.declared(bucket) for bucket, policy in self.allow.items()},
            quotas=self.quotas.declared(),
            endpoints={n: Endpoint(n, end.url, end.secret) for n, end in self.endpoints.items()},
        )


class Declaration(Table):
    """The whole file. Validate it with a `fields.Around` as context."""

    buckets: dict[fields.Name, BucketTable] = {}
    tenants: dict[fields.Name, TenantTable] = {}

    def declared(self) -> Declared:
        """In the worker's form."""
        return Declared(
            buckets={n: Bucket(name=n, **b.model_dump()) for n, b in self.buckets.items()},
            tenants={name: tenant.declared(name) for name, tenant in self.tenants.items()},
        )
