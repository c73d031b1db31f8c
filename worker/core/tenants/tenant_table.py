"""The form of tenants.toml, table by table. A field's description is its hint where it is wrong."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from worker.core.tenants import fields
from worker.core.tenants.bucket_table import BucketTable
from worker.core.tenants.config import Endpoint, Policy, Tenant, TenantConfig
from worker.core.tenants.fields import Table, field_error
from worker.core.tenants.key_table import KeyTable
from worker.core.tenants.quota_table import QuotaTable


class PolicyTable(Table):
    """[tenants.NAME.allow.BUCKET]: what the tenant may ask for in a bucket profile."""

    prefixes: fields.Prefixes = Field(description='like ["acme/"], or ["*"] for the whole bucket')
    kinds: fields.Kinds = Field(description='of "download", "upload", "put", "multipart"')
    max_expires_in: fields.ExpiresIn = Field(3_600, description="like 15m, 12h or 7d, the longest")
    max_size: fields.UploadSize | None = Field(
        None, description="like 500KiB or 5GiB, the largest", validate_default=True
    )
    content_types: fields.ContentTypes = Field(
        ("application/octet-stream",), description='like ["image/*", "application/pdf"]'
    )
    acls: fields.Acls = Field((), description='like ["bucket-owner-full-control"]')
    inline: fields.ExactTypes = Field((), description="content types that may be shown, not saved")
    overrides: fields.Overrides = Field((), description='like ["cache_control"]')
    storage_classes: fields.StorageClasses = Field((), description='like ["STANDARD_IA"]')
    kms_keys: fields.KmsKeys = Field((), description="ARNs of keys that uploads may be put under")
    redirects: fields.Redirects = Field((), description='like ["https://app.example.com/done/"]')
    free_names: bool = Field(False, description="true lets a form's key end in ${filename}")
    overwrite: bool = Field(False, description="true lets a put replace an object")
    callbacks: fields.Callbacks | None = Field(
        None, description='endpoints that may be told, like ["billing"]; unset: any of the tenant'
    )
    max_batch: fields.BatchSize | None = Field(None, description="items in one request")
    shared: bool = Field(False, description="true lets another's prefixes overlap, if both say so")

    @field_validator("max_size")
    @classmethod
    def _limits_uploads(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and {"upload", "put", "multipart"} & set(info.data.get("kinds", ())):
            raise field_error("uploads need a largest size")
        return value

    def declared(self, bucket: str) -> Policy:
        """In the worker's form; where nothing can be uploaded the largest size is 0."""
        return Policy(bucket=bucket, **self.model_dump() | {"max_size": self.max_size or 0})


class EndpointTable(Table):
    """[tenants.NAME.endpoints.NAME]: where a request's callback may point."""

    url: fields.WebhookUrl = Field(description="https://, a public host, port 443 or 8443")
    secret: fields.SecretReference = Field(description="env:NAME or file:PATH")


class TenantTable(Table):
    """[tenants.NAME]: whom a producer acts for."""

    trust: Literal["keys", "queue"] = Field(
        "keys",
        description='"keys", or "queue": whoever can write to the queue speaks for the tenant',
    )
    keys: dict[fields.Name, KeyTable] = Field(default_factory=dict)
    max_batch: fields.BatchSize = Field(100_000, description="items in one request")
    allow: dict[fields.KnownBucket, PolicyTable] = Field(default_factory=dict)
    quotas: QuotaTable = QuotaTable()
    endpoints: dict[fields.Name, EndpointTable] = Field(default_factory=dict)

    def declared(self, name: str) -> Tenant:
        """In the worker's form."""
        return Tenant(
            name=name,
            trust=self.trust,
            max_batch=self.max_batch,
            policies={bucket: policy.declared(bucket) for bucket, policy in self.allow.items()},
            quotas=self.quotas.declared(),
            endpoints={n: Endpoint(n, end.url, end.secret) for n, end in self.endpoints.items()},
            keys={name: key.declared(name) for name, key in self.keys.items()},
        )


class TenantsFile(Table):
    """The whole file. Validate it with a `fields.Around` as context.

    What its tables say of each other is not looked at here: see `conflicts`.
    """

    buckets: dict[fields.Name, BucketTable] = Field(default_factory=dict)
    tenants: dict[fields.Name, TenantTable] = Field(default_factory=dict)

    def declared(self) -> TenantConfig:
        """In the worker's form."""
        return TenantConfig(
            buckets={name: bucket.declared(name) for name, bucket in self.buckets.items()},
            tenants={name: tenant.declared(name) for name, tenant in self.tenants.items()},
        )
