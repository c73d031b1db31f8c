"""The signed properties of an object to be stored: headers of a PUT, fields of a form."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from valetkey.wire.terms import Checksum, StorageTerms, Upload
from worker.core.signing.forms import Condition

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
