"""What is signed about an object that will be stored: as headers of a PUT, as fields of a form."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from valetkey.wire.terms import Checksum, StorageTerms, Upload
from worker.core.signing.forms import Condition

GRANT_ID_HEADER = "x-amz-meta-grant-id"


def put_headers(terms: StorageTerms) -> dict[str, str]:
    """Write as signed headers what all objects of a batch have in common."""
    common = {"content-type": terms.content_type} | _common(terms)
    if terms.acl is not None:
        common["x-amz-acl"] = terms.acl
    if terms.tags:
        common["x-amz-tagging"] = urlencode(terms.tags)
    return common


def form_fields(terms: Upload) -> dict[str, str]:
    """Write as form fields what all objects of a batch have in common."""
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


def form_conditions(terms: Upload) -> list[Condition]:
    """Write what a form's file must be, beside its exact fields."""
    found: list[Condition] = [["content-length-range", terms.min_size, terms.max_size]]
    if terms.content_type.endswith("/*"):
        found.append(["starts-with", "$Content-Type", terms.content_type.removesuffix("*")])
    return found


def checksum_header(checksum: Checksum | None) -> dict[str, str]:
    """Name the digest that storage must find, as it is named in a header and in a form."""
    if checksum is None:
        return {}
    return {f"x-amz-checksum-{checksum.algorithm}": checksum.value}


def checksum_form_fields(checksum: Checksum | None) -> dict[str, str]:
    """Name the digest in a form, which names the algorithm too."""
    if checksum is None:
        return {}
    return {"x-amz-checksum-algorithm": checksum.algorithm.upper()} | checksum_header(checksum)


def create_multipart_params(terms: StorageTerms, grant_id: str) -> dict[str, Any]:
    """Write the same for boto3's create_multipart_upload, by its parameters' names."""
    said: dict[str, Any] = {
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
    return said | {name: value for name, value in optional.items() if value is not None}


def _common(terms: StorageTerms) -> dict[str, str]:
    """What a header and a form field name alike."""
    said = {f"x-amz-meta-{name}": value for name, value in terms.metadata.items()}
    if terms.storage_class is not None:
        said["x-amz-storage-class"] = terms.storage_class
    if terms.encryption is not None:
        said["x-amz-server-side-encryption"] = terms.encryption.algorithm
        if terms.encryption.key is not None:
            said["x-amz-server-side-encryption-aws-kms-key-id"] = terms.encryption.key
    return said


def _tagging(tags: Mapping[str, str]) -> str:
    # A form's tags are XML, a header's a query string (AWS: RESTObjectPOST.html, object-tagging).
    pairs = "".join(
        f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>"
        for name, value in tags.items()
    )
    return f"<Tagging><TagSet>{pairs}</TagSet></Tagging>"
