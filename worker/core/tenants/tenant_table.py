"""The other tables of tenants.toml. A field's description is the hint of its errors."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from valetkey.wire.terms import TERMS_BY_KIND, StorageTerms
from worker.core.tenants import fields
from worker.core.tenants.bucket_table import BucketTable
from worker.core.tenants.config import Policy, Tenant, TenantConfig, WebhookEndpoint
from worker.core.tenants.fields import Table, field_error
from worker.core.tenants.key_table import KeyTable
from worker.core.tenants.quota_table import QuotaTable

_UPLOAD_KINDS = {kind for kind, terms in TERMS_BY_KIND.items() if issubclass(terms, StorageTerms)}


class PolicyTable(Table):
    """[tenants.NAME.allow.BUCKET]: the requests that a tenant may make in a bucket profile."""

    prefixes: fields.Prefixes = Field(description='like ["acme/"], or ["*"] for the whole bucket')
    kinds: fields.Kinds = Field(
        description='an array of "download", "upload", "put" and "multipart"'
    )
    max_expires_in: fields.ExpiresIn = Field(
        3_600, description="seconds, or a duration like 15m or 12h, 7d at most"
    )
    max_size: fields.UploadSize | None = Field(
        None,
        description="bytes of one upload, or a size like 500KiB or 5GiB, 5TiB at most",
        validate_default=True,
    )
    content_types: fields.ContentTypes = Field(
        ("application/octet-stream",), description='like ["image/*", "application/pdf"]'
    )
    acls: fields.Acls = Field((), description='like ["bucket-owner-full-control"]')
    inline: fields.ExactContentTypes = Field(
        (), description='types that a download may display in the browser, like ["image/png"]'
    )
    overrides: fields.ResponseOverrides = Field((), description='like ["cache_control"]')
    storage_classes: fields.StorageClasses = Field((), description='like ["STANDARD_IA"]')
    kms_keys: fields.KmsKeys = Field(
        (), description='like ["arn:aws:kms:eu-central-1:111122223333:key/1234abcd-…"]'
    )
    redirects: fields.Redirects = Field((), description='like ["https://app.example.com/done/"]')
    free_names: bool = Field(False, description="true lets a form's key end in ${filename}")
    overwrite: bool = Field(False, description="true lets a put replace an object")
    plain: bool = Field(
        False, description="true allows links that leave the response to the stored object"
    )
    callbacks: fields.Callbacks | None = Field(
        None,
        description='endpoints that may receive webhooks, like ["billing"]; unset: all of them',
    )
    max_batch: fields.BatchSize | None = Field(
        None, description="items in one request, a whole number from 1 to 1,000,000"
    )
    shared: bool = Field(
        False,
        description="true lets another tenant's prefixes overlap, if its policy is shared too",
    )

    @field_validator("max_size")
    @classmethod
    def _check_max_size(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and not _UPLOAD_KINDS.isdisjoint(info.data.get("kinds", ())):
            raise field_error('kinds that upload need max_size: add a line like max_size = "5GiB"')
        return value

    def to_config(self, bucket: str) -> Policy:
        """Convert to the worker's form. Without an upload kind, max_size is 0."""
        return Policy(bucket=bucket, **self.model_dump() | {"max_size": self.max_size or 0})


class WebhookEndpointTable(Table):
    """[tenants.NAME.endpoints.NAME]: an endpoint that a request's callback can name."""

    url: fields.EndpointUrl = Field(
        description="an https:// URL with a public host name and port 443 or 8443"
    )
    secret: fields.SecretReference = Field(
        description='a reference like "env:NAME" or "file:PATH", 2,048 characters at most'
    )


class TenantTable(Table):
    """[tenants.NAME]: an account that producers act for."""

    trust: Literal["keys", "queue"] = Field(
        "keys",
        description='"keys", or "queue": anyone who can write to the queue can act for the tenant',
    )
    keys: dict[fields.Name, KeyTable] = Field(default_factory=dict)
    max_batch: fields.BatchSize = Field(
        100_000, description="items in one request, a whole number from 1 to 1,000,000"
    )
    refund_unused: bool = Field(
        True, description="false keeps the bytes of unused upload slots charged"
    )
    allow: dict[fields.BucketProfileName, PolicyTable] = Field(default_factory=dict)
    quotas: QuotaTable = QuotaTable()
    endpoints: dict[fields.Name, WebhookEndpointTable] = Field(default_factory=dict)

    def to_config(self, name: str) -> Tenant:
        """Convert to the worker's form."""
        return Tenant(
            name=name,
            trust=self.trust,
            max_batch=self.max_batch,
            refund_unused=self.refund_unused,
            policies={bucket: policy.to_config(bucket) for bucket, policy in self.allow.items()},
            quotas=self.quotas.to_config(),
            endpoints={
                endpoint_name: WebhookEndpoint(endpoint_name, table.url, table.secret)
                for endpoint_name, table in self.endpoints.items()
            },
            keys={key_name: table.to_config(key_name) for key_name, table in self.keys.items()},
        )


class TenantsFile(Table):
    """The whole file. Validation needs a `fields.ValidationContext` as its context.

    Contradictions between tables are checked elsewhere, by `find_conflicts`.
    """

    buckets: dict[fields.Name, BucketTable] = Field(default_factory=dict)
    tenants: dict[fields.Name, TenantTable] = Field(default_factory=dict)

    def to_config(self) -> TenantConfig:
        """Convert to the worker's form."""
        return TenantConfig(
            buckets={name: bucket.to_config(name) for name, bucket in self.buckets.items()},
            tenants={name: tenant.to_config(name) for name, tenant in self.tenants.items()},
        )
