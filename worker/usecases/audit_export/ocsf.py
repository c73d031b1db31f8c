"""Formats exported rows as events of the Open Cybersecurity Schema Framework, version 1.6.0.

Each item is an event of the class API Activity (6003): a request to create a grant. Events have no
category of their own for signed links, and this class has an actor, a call and its resources.
"""

import json
from json.encoder import encode_basestring_ascii as quote_json
from typing import Any

from worker.db.audit.filters import ISSUED
from worker.db.audit.stream import ChunkHead, ChunkItems

VERSION = "1.6.0"
CLASS_UID = 6003
CATEGORY_UID = 6
_CREATE = 1
_INFORMATIONAL = 1
_SUCCESS, _FAILURE = 1, 2


def format_ocsf(block: list[ChunkItems]) -> str:
    """Format a block as one OCSF event per line."""
    lines = []
    for head, items in block:
        shared = json.dumps(_shared_values(head))[:-1]
        metadata = json.dumps(_metadata(head))[:-1]
        grant = quote_json(f"{head.batch_id}.")[:-1]
        bucket = quote_json(head.bucket)
        allowed = _outcome(_SUCCESS, "Success", ISSUED)
        unmapped = json.dumps(_unmapped(head, is_issued=True))
        refused_unmapped = json.dumps(_unmapped(head, is_issued=False))
        for _, number, key, code in items:
            outcome = allowed if code is None else _outcome(_FAILURE, "Failure", code)
            lines.append(
                f'{shared}, "metadata": {metadata}, "uid": {grant}{number}"}}, "resources": '
                f'[{{"type": "object", "name": {quote_json(key)}, "namespace": {bucket}}}], '
                f'{outcome}, "unmapped": {unmapped if code is None else refused_unmapped}}}\n'
            )
    return "".join(lines)


def _shared_values(head: ChunkHead) -> dict[str, Any]:
    user: dict[str, Any] = {"name": head.requested_by, "org": {"uid": head.tenant}}
    if head.signed_by is not None:
        user["credential_uid"] = head.signed_by
    return {
        "category_uid": CATEGORY_UID,
        "category_name": "Application Activity",
        "class_uid": CLASS_UID,
        "class_name": "API Activity",
        "activity_id": _CREATE,
        "activity_name": "Create",
        "type_uid": CLASS_UID * 100 + _CREATE,
        "type_name": "API Activity: Create",
        "severity_id": _INFORMATIONAL,
        "severity": "Informational",
        "time": int(head.time.timestamp() * 1_000),
        "actor": {"user": user},
        "api": {"operation": f"grant.{head.kind}", "service": {"name": "valetkey"}},
        # The queue names no address of the producer.
        "src_endpoint": {"name": head.requested_by},
    }


def _metadata(head: ChunkHead) -> dict[str, Any]:
    return {
        "version": VERSION,
        "product": {"name": "valetkey", "vendor_name": "valetkey"},
        "tenant_uid": head.tenant,
        "correlation_uid": head.batch_id,
    }


def _outcome(status_id: int, status: str, code: str) -> str:
    return f'"status_id": {status_id}, "status": "{status}", "status_code": {quote_json(code)}'


def _unmapped(head: ChunkHead, *, is_issued: bool) -> dict[str, Any]:
    values = {"kind": head.kind, "recipient": head.recipient, "reason": head.reason}
    present: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    if is_issued:
        present["expires_at"] = int(head.expires_at.timestamp() * 1_000)
    return present
