"""The [buckets.NAME] table of tenants.toml: a bucket profile and the rules between its fields."""

from pydantic import Field, ValidationInfo, field_validator

from valetkey.wire.terms import MAX_EXPIRES_IN
from worker.core.tenants import fields
from worker.core.tenants.config import Addressing, Bucket, Provider
from worker.core.tenants.fields import field_error
from worker.core.tenants.storage_names import is_ordinary_bucket


class BucketTable(fields.Table):
    """[buckets.NAME]: a bucket profile."""

    bucket: fields.BucketName = Field(
        description="the name of the real bucket, like acme-reports, or an access point's ARN"
    )
    region: fields.Region = Field(description="the region in signatures, like eu-central-1")
    addressing: Addressing = Field(
        "virtual", validate_default=True, description='"virtual" or "path"'
    )
    endpoint: fields.S3Endpoint | None = Field(
        None, description="the address that the users of links reach, like https://s3.example.com"
    )
    profile: fields.AwsProfile | None = Field(
        None, description="a profile of the AWS configuration, 1 to 255 characters"
    )
    internal_endpoint: fields.S3Endpoint | None = Field(
        None, description="the address that this worker reaches, like http://minio:9000"
    )
    provider: Provider | None = Field(
        None, validate_default=True, description='"aws", "r2" or "other"'
    )
    post: bool | None = Field(
        None, validate_default=True, description="true if the storage accepts POST forms"
    )
    conditional_writes: bool = Field(
        True, description="false if the storage ignores If-None-Match of a PUT"
    )
    versioned: bool = Field(
        False, description="true if the bucket keeps earlier versions of its objects"
    )
    fips: bool = Field(False, description="true selects Amazon's FIPS endpoint")
    dualstack: bool = Field(False, description="true selects Amazon's endpoint with IPv6")
    accelerate: bool = Field(False, description="true selects S3 Transfer Acceleration")
    owner: fields.AwsAccount | None = Field(
        None, description='the account that owns the bucket, a string like "111122223333"'
    )
    max_expires_in: fields.ExpiresIn = Field(
        MAX_EXPIRES_IN,
        description="seconds, or like 12h: the longest that the provider allows, 7d at most",
    )
    role_arn: fields.RoleArn | None = Field(
        None, description="the role that signs, like arn:aws:iam::111122223333:role/valetkey"
    )
    external_id: fields.ExternalId | None = Field(
        None, description="the external id that the role's trust policy requires"
    )
    role_seconds: fields.RoleSeconds = Field(
        3_600,
        description="seconds of a session, or like 1h: 15m to the role's maximum, 12h at most",
    )
    events_queue: fields.QueueUrl | None = Field(
        None, description="the URL of the SQS queue that gets the bucket's event notifications"
    )
    probe_rate: fields.ProbeRate = Field(
        20, description="requests a second, 0 to 1,000, that ask storage what upload slots stored"
    )

    def to_config(self, name: str) -> Bucket:
        """Convert to the worker's form, with the provider's defaults."""
        return Bucket(name=name, **self.model_dump())

    @field_validator("region")
    @classmethod
    def _check_region_of_arn(cls, value: str, info: ValidationInfo) -> str:
        bucket = info.data.get("bucket", "")
        if bucket.startswith("arn:") and bucket.split(":")[3] != value:
            region = bucket.split(":")[3]
            raise field_error(f'the access point\'s ARN has another region: write "{region}"')
        return value

    @field_validator("addressing")
    @classmethod
    def _check_certificate(cls, value: Addressing, info: ValidationInfo) -> Addressing:
        # AWS: VirtualHosting.html; its wildcard certificate covers one label.
        if value == "virtual" and "." in info.data.get("bucket", ""):
            raise field_error(
                "no certificate covers a bucket name with a dot as a host name:"
                ' write addressing = "path"'
            )
        return value

    @field_validator("provider")
    @classmethod
    def _check_provider(cls, value: Provider | None, info: ValidationInfo) -> Provider:
        # Cloudflare: r2/api/s3/api, "Bucket region".
        endpoint = info.data.get("endpoint")
        if value == "r2" and (endpoint is None or info.data.get("region") != "auto"):
            raise field_error(
                'R2 needs region = "auto" and the account\'s endpoint,'
                ' like endpoint = "https://ACCOUNT.r2.cloudflarestorage.com"'
            )
        return value or ("aws" if endpoint is None else "other")

    @field_validator("post")
    @classmethod
    def _check_post(cls, value: bool | None, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        # Cloudflare: r2/api/s3/presigned-urls has no POST; boto3 signs none for access points.
        if value and not is_ordinary_bucket(info.data.get("bucket", "")):
            raise field_error(
                "access points and directory buckets accept no POST forms: write post = false"
            )
        if value is not None:
            return value
        return info.data.get("provider") != "r2" and is_ordinary_bucket(info.data.get("bucket", ""))

    @field_validator("fips", "dualstack", "accelerate")
    @classmethod
    def _check_aws_endpoint(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        if value and info.data.get("endpoint"):
            raise field_error(
                "this selects one of Amazon's endpoints, but endpoint is set already:"
                " remove one of the two"
            )
        return value

    @field_validator("accelerate")
    @classmethod
    def _check_accelerate(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's own call
        # AWS: transfer-acceleration.html, "Requirements".
        if value and (
            info.data.get("addressing") == "path"
            or not is_ordinary_bucket(info.data.get("bucket", ""))
        ):
            raise field_error(
                'acceleration needs addressing = "virtual" and an ordinary bucket without dots'
                " in its name"
            )
        if value and info.data.get("fips"):
            raise field_error("acceleration has no FIPS endpoint: remove fips or accelerate")
        return value

    @field_validator("role_arn")
    @classmethod
    def _check_role(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and (
            not is_ordinary_bucket(info.data.get("bucket", "")) or info.data.get("provider") == "r2"
        ):
            raise field_error(
                "a role's session can be limited to prefixes only in an ordinary bucket, not in"
                " an access point, a directory bucket or R2: remove role_arn"
            )
        return value

    @field_validator("external_id", "role_seconds")
    @classmethod
    def _check_role_is_set(cls, value: str | int | None, info: ValidationInfo) -> str | int | None:
        # An invalid role_arn is missing from data, and has an error of its own.
        if info.data.get("role_arn", "invalid") is None:
            raise field_error("this has no effect without role_arn: add role_arn or remove this")
        return value
