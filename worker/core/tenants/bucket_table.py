"""[buckets.NAME] of tenants.toml: a bucket profile, and which of its fields go together."""

from pydantic import Field, ValidationInfo, field_validator

from valetkey.wire.terms import MAX_EXPIRES_IN
from worker.core.tenants import fields
from worker.core.tenants.config import Addressing, Bucket, Provider
from worker.core.tenants.fields import field_error


class BucketTable(fields.Table):
    """[buckets.NAME]: a bucket profile."""

    bucket: fields.RealBucket = Field(description="the real bucket's name")
    region: fields.Region = Field(description="as it stands in signatures, like eu-central-1")
    addressing: Addressing = Field("virtual", validate_default=True)
    endpoint: fields.S3Endpoint | None = Field(None, description="as the users of links reach it")
    profile: fields.Profile | None = None
    internal_endpoint: fields.S3Endpoint | None = Field(None, description="as this worker does")
    provider: Provider | None = Field(
        None, validate_default=True, description='"aws", "r2" or "other"'
    )
    post: bool | None = Field(None, validate_default=True, description="whether it takes forms")
    fips: bool = False
    dualstack: bool = False
    accelerate: bool = False
    owner: fields.Account | None = Field(None, description="whose bucket it must be")
    max_expires_in: fields.ExpiresIn = Field(
        MAX_EXPIRES_IN, description="like 12h or 7d, the provider's longest"
    )
    role_arn: fields.RoleArn | None = Field(None, description="the role that signs")
    external_id: fields.ExternalId | None = None
    role_seconds: fields.RoleSeconds = Field(
        3_600, description="like 1h, a session's life: 15m to the role's maximum, 12h at most"
    )

    def declared(self, name: str) -> Bucket:
        """In the worker's form, with the provider's defaults."""
        return Bucket(name=name, **self.model_dump())

    @field_validator("region")
    @classmethod
    def _is_the_arns(cls, value: str, info: ValidationInfo) -> str:
        bucket = info.data.get("bucket", "")
        if bucket.startswith("arn:") and bucket.split(":")[3] != value:
            raise field_error("the access point's ARN has another region")
        return value

    @field_validator("addressing")
    @classmethod
    def _has_a_certificate(cls, value: Addressing, info: ValidationInfo) -> Addressing:
        # AWS: VirtualHosting.html; its wildcard certificate covers one label.
        if value == "virtual" and "." in info.data.get("bucket", ""):
            raise field_error(
                'a bucket with a dot has no certificate as a host: addressing = "path"'
            )
        return value

    @field_validator("provider")
    @classmethod
    def _is_where_it_says(cls, value: Provider | None, info: ValidationInfo) -> Provider:
        # Cloudflare: r2/api/s3/api, "Bucket region".
        endpoint = info.data.get("endpoint")
        if value == "r2" and (endpoint is None or info.data.get("region") != "auto"):
            raise field_error('R2 needs region = "auto" and the endpoint of the account')
        return value or ("aws" if endpoint is None else "other")

    @field_validator("post")
    @classmethod
    def _is_signed_for(cls, value: bool | None, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        # Cloudflare: r2/api/s3/presigned-urls has no POST; boto3 signs none for access points.
        if value and not _plain(info):
            raise field_error("there are no forms for access points and directory buckets")
        return value if value is not None else info.data.get("provider") != "r2" and _plain(info)

    @field_validator("fips", "dualstack", "accelerate")
    @classmethod
    def _is_amazons(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        if value and info.data.get("endpoint"):
            raise field_error(
                "this chooses among Amazon's endpoints, and endpoint already says which"
            )
        return value

    @field_validator("accelerate")
    @classmethod
    def _can_be_a_label(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        # AWS: transfer-acceleration.html, "Requirements".
        if value and (info.data.get("addressing") == "path" or not _plain(info)):
            raise field_error('acceleration needs addressing = "virtual" and a bucket without dots')
        if value and info.data.get("fips"):
            raise field_error("acceleration has no FIPS endpoint")
        return value

    @field_validator("role_arn")
    @classmethod
    def _can_be_held(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and (not _plain(info) or info.data.get("provider") == "r2"):
            raise field_error("a role is held to prefixes of an ordinary bucket only")
        return value

    @field_validator("external_id", "role_seconds")
    @classmethod
    def _has_a_role(cls, value: str | int | None, info: ValidationInfo) -> str | int | None:
        if info.data.get("role_arn", "wrong itself") is None:
            raise field_error("this means nothing without a role_arn")
        return value


def _plain(info: ValidationInfo) -> bool:
    """Whether the bucket is neither an access point nor a directory bucket."""
    bucket = str(info.data.get("bucket", ""))
    return not bucket.startswith("arn:") and not bucket.endswith(("--x-s3", "--xa-s3"))
