"""The form of tenants.toml, table by table. A field's description is its hint where it is wrong."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from valetkey.refusals import Window
from worker.core import fields
from worker.core.buckets import BucketTable
from worker.core.fields import Table, wrong
from worker.core.roles import LONGEST_POLICY, session_policy
from worker.core.tenancy import Declared, Endpoint, Policy, Quota, Tenant


class PolicyTable(Table):
    """[tenants.NAME.allow.BUCKET]: what the tenant may ask for in a bucket profile."""

    prefixes: fields.Prefixes = Field(description='like ["acme/"], or ["*"] for the whole bucket')
    kinds: fields.Kinds = Field(description='of "download", "upload", "put", "multipart"')
    max_expires_in: fields.Life = Field(3_600, description="like 15m, 12h or 7d, the longest")
    max_size: fields.PostSize | None = Field(
        None, description="like 500KiB or 5GiB, the largest", validate_default=True
    )
    content_types: fields.ContentTypes = ("application/octet-stream",)
    acls: fields.Acls = ()
    inline: fields.ExactTypes = Field((), description="content types that may be shown, not saved")
    overrides: fields.Overrides = Field((), description='like ["cache_control"]')
    storage_classes: fields.StorageClasses = Field((), description='like ["STANDARD_IA"]')
    kms_keys: fields.KmsKeys = Field((), description="ARNs of keys that uploads may be put under")
    redirects: fields.Redirects = Field((), description='like ["https://app.example.com/done/"]')
    free_names: bool = Field(False, description="true lets a form's key end in ${filename}")
    overwrite: bool = Field(False, description="true lets a put replace an object")

    @field_validator("max_size")
    @classmethod
    def _limits_uploads(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None and {"upload", "put", "multipart"} & set(info.data.get("kinds", ())):
            raise wrong("uploads need a largest size")
        return value

    def declared(self, bucket: str) -> Policy:
        """In the worker's form; where nothing can be uploaded the largest size is 0."""
        return Policy(bucket=bucket, **self.model_dump() | {"max_size": self.max_size or 0})


class QuotaTable(Table):
    """[tenants.NAME.quotas]: the limit of each window (UTC), by metric."""

    grants: dict[Window, fields.Count] = Field(default_factory=dict)
    upload_bytes: dict[Window, fields.Bytes] = Field(default_factory=dict)

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
        )


class Declaration(Table):
    """The whole file. Validate it with a `fields.Around` as context."""

    buckets: dict[fields.Name, BucketTable] = Field(default_factory=dict)
    tenants: dict[fields.Name, TenantTable] = Field(default_factory=dict)

    @field_validator("tenants")
    @classmethod
    def _fit_a_session(
        cls, tenants: dict[str, TenantTable], info: ValidationInfo
    ) -> dict[str, TenantTable]:
        for name, tenant in tenants.items():
            for bucket, policy in tenant.allow.items():
                profile = info.data.get("buckets", {}).get(bucket)
                if profile is not None and _over(profile, policy):
                    raise wrong(
                        f"{name}.allow.{bucket}: its prefixes make a role's session policy longer"
                        f" than the {LONGEST_POLICY:,} characters that AWS takes"
                    )
        return tenants

    def declared(self) -> Declared:
        """In the worker's form."""
        return Declared(
            buckets={name: bucket.declared(name) for name, bucket in self.buckets.items()},
            tenants={name: tenant.declared(name) for name, tenant in self.tenants.items()},
        )


def _over(bucket: BucketTable, policy: PolicyTable) -> bool:
    if bucket.role_arn is None:
        return False
    return len(session_policy(bucket.role_arn, bucket.bucket, policy.prefixes)) > LONGEST_POLICY
