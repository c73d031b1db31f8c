"""Everything that the signatures of one chunk have in common, and the shape of a signed grant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from valetkey.signing.sigv4 import Condition, Credentials, Target, UrlSigner
from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import (
    MAX_OBJECT_BYTES,
    MAX_PARTS,
    MIN_PART_BYTES,
    Checksum,
    StorageTerms,
    Upload,
)

MEBIBYTE = 1024**2
DEFAULT_PART_BYTES = 16 * MEBIBYTE


class MultipartPlan(NamedTuple):
    """A file of `size` bytes in parts of `part_size` bytes; the last part holds the remainder."""

    size: int
    part_size: int

    @property
    def part_count(self) -> int:
        """The number of parts. An empty file has one part, which is empty."""
        return max(1, -(-self.size // self.part_size))

    def part_length(self, part: int) -> int:
        """Return the number of bytes of a part; parts are numbered from 1."""
        return min(self.part_size, self.size - (part - 1) * self.part_size)


class StartedUpload(NamedTuple):
    """A multipart upload that storage knows by upload_id."""

    upload_id: str
    plan: MultipartPlan


NO_UPLOAD = StartedUpload("", MultipartPlan(0, 1))
"""The upload of an item that belongs to no multipart upload."""


def plan_parts(size: int, part_size: int | None) -> MultipartPlan | None:
    """Divide a file of `size` bytes into parts, or return None if the parts break S3's limits.

    Without part_size, a part has 16 MiB, or as many whole MiB as 10,000 parts require
    (AWS: qfacts.html).
    """
    if part_size is None:
        required = -(-size // MAX_PARTS)
        part_size = max(DEFAULT_PART_BYTES, -(-required // MEBIBYTE) * MEBIBYTE)
    plan = MultipartPlan(size, part_size)
    fits = plan.part_count <= MAX_PARTS and MIN_PART_BYTES <= part_size <= MAX_OBJECT_BYTES
    return plan if fits else None


_REASONS = {
    "provider": "storage does not accept a grant for so long, or the upload of the part ends",
    "credentials": "the credentials that sign expire before that",
}


class Validity(NamedTuple):
    """The time of issue, the validity in seconds, and the limit that decided it."""

    issued_at: datetime
    expires_in: int
    limited_by: str

    @property
    def expires_at(self) -> datetime:
        """The time from which storage refuses the grant."""
        return self.issued_at + timedelta(seconds=self.expires_in)

    def remaining(self, now: datetime) -> timedelta:
        """Return the time until the expiry; negative after it.

        Never more than the whole validity, even if the clock is behind the one that issued it.
        """
        return min(self.expires_at - now, timedelta(seconds=self.expires_in))

    def limit_to(self, seconds: int, limited_by: str) -> "Validity":
        """Return this validity, shortened to a number of seconds if it is longer."""
        if self.expires_in <= seconds:
            return self
        return Validity(self.issued_at, seconds, limited_by)

    def limit_to_credentials(self, credentials: Credentials) -> "Validity":
        """Return this validity, shortened to the expiry of the credentials if that is earlier.

        A URL stops working with its credentials, whatever X-Amz-Expires says.
        Source: AWS, using-presigned-url.html.
        """
        if credentials.expires_at is None:
            return self
        seconds = int((credentials.expires_at - self.issued_at).total_seconds())
        return self.limit_to(seconds, "credentials")


def apply_signing_limits(
    validity: Validity, min_seconds: int | None, max_seconds: int, credentials: Credentials
) -> Validity | Refusal:
    """Shorten a validity to the limits of the provider and the credentials, or refuse it.

    A result below min_seconds, or below one second, is refused.
    """
    result = validity.limit_to(max_seconds, "provider").limit_to_credentials(credentials)
    if result.expires_in < (min_seconds or 1):
        return Refusal(
            code=Code.EXPIRY_TOO_SHORT,
            field="grant.min_expires_in",
            message=_REASONS.get(result.limited_by, "the grant has to expire before that"),
            limit=max(result.expires_in, 0),
        )
    return result


SignedGrant = tuple[dict[str, Any], bytes]
"""A grant as JSON values, and the digest of its signature, which may be stored."""

ItemSigner = Callable[[str, Item, StartedUpload], SignedGrant]
"""Signs one item: its grant id, the item, and the multipart upload that it belongs to."""


@dataclass(frozen=True, slots=True)
class SigningContext:
    """The bucket, target, credentials and validity that sign the grants of a chunk.

    bucket is the real bucket's name, owner the id of the AWS account that owns it.
    """

    bucket: str
    owner: str | None
    target: Target
    credentials: Credentials
    validity: Validity

    @property
    def owner_headers(self) -> dict[str, str]:
        """The header by which storage checks the owner of the bucket."""
        return {"x-amz-expected-bucket-owner": self.owner or ""}

    def signer_for(self, method: str, **common: Any) -> UrlSigner:
        """Prepare to sign URLs of one HTTP method; `common` are UrlSigner's query and headers."""
        return UrlSigner(
            self.credentials,
            self.target,
            method=method,
            issued_at=self.validity.issued_at,
            expires_in=self.validity.expires_in,
            **common,
        )

    def common_fields(self, method: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Return the fields that all grants of the chunk share."""
        fields = {
            "method": method,
            "expires_at": self.validity.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "limited_by": self.validity.limited_by,
        }
        return fields | ({"headers": headers} if headers else {})


GRANT_ID_HEADER = "x-amz-meta-grant-id"


def common_put_headers(terms: StorageTerms) -> dict[str, str]:
    """Return the signed headers that all PUTs of a batch share."""
    common = {"content-type": terms.content_type} | _common(terms)
    if terms.acl is not None:
        common["x-amz-acl"] = terms.acl
    if terms.tags:
        common["x-amz-tagging"] = urlencode(terms.tags)
    return common


def common_form_fields(terms: Upload) -> dict[str, str]:
    """Return the fields that all forms of a batch share."""
    common = _common(terms)
    if not terms.content_type.endswith("/*"):
        common = {"Content-Type": terms.content_type} | common
    if terms.acl is not None:
        common["acl"] = terms.acl
    if terms.tags:
        common["tagging"] = _tagging(terms.tags)
    if terms.success_status is not None:
        common["success_action_status"] = str(terms.success_status)
    if terms.success_redirect is not None:
        common["success_action_redirect"] = terms.success_redirect
    return common


def file_conditions(terms: Upload) -> list[Condition]:
    """Return a form's conditions on the file's size and on a wildcard content type."""
    conditions: list[Condition] = [["content-length-range", terms.min_size, terms.max_size]]
    if terms.content_type.endswith("/*"):
        conditions.append(["starts-with", "$Content-Type", terms.content_type.removesuffix("*")])
    return conditions


def checksum_header(checksum: Checksum | None) -> dict[str, str]:
    """Return the x-amz-checksum-* header of a PUT; a form's field has the same name."""
    if checksum is None:
        return {}
    return {f"x-amz-checksum-{checksum.algorithm}": checksum.value}


def checksum_form_fields(checksum: Checksum | None) -> dict[str, str]:
    """Return the form fields of a checksum: its algorithm and its digest."""
    if checksum is None:
        return {}
    return {"x-amz-checksum-algorithm": checksum.algorithm.upper()} | checksum_header(checksum)


def create_multipart_params(terms: StorageTerms, grant_id: str) -> dict[str, Any]:
    """Return the parameters of boto3's create_multipart_upload."""
    params: dict[str, Any] = {
        "ContentType": terms.content_type,
        "Metadata": {**terms.metadata, "grant-id": grant_id},
    }
    encryption = terms.encryption
    optional = {
        "ACL": terms.acl,
        "Tagging": urlencode(terms.tags) or None,
        "StorageClass": terms.storage_class,
        "ServerSideEncryption": encryption and encryption.algorithm,
        "SSEKMSKeyId": encryption and encryption.key,
    }
    return params | {name: value for name, value in optional.items() if value is not None}


def _common(terms: StorageTerms) -> dict[str, str]:
    """Return the properties that have the same name as a header and as a form field."""
    properties = {f"x-amz-meta-{name}": value for name, value in terms.metadata.items()}
    if terms.storage_class is not None:
        properties["x-amz-storage-class"] = terms.storage_class
    if terms.encryption is not None:
        properties["x-amz-server-side-encryption"] = terms.encryption.algorithm
        if terms.encryption.key is not None:
            properties["x-amz-server-side-encryption-aws-kms-key-id"] = terms.encryption.key
    return properties


def _tagging(tags: Mapping[str, str]) -> str:
    # A form's tags are XML, a header's a query string (AWS: RESTObjectPOST.html, object-tagging).
    pairs = "".join(
        f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>"
        for name, value in tags.items()
    )
    return f"<Tagging><TagSet>{pairs}</TagSet></Tagging>"
