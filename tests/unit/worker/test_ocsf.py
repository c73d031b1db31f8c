"""Events have the attributes that OCSF 1.6.0 requires of the class API Activity.

Source: schema.ocsf.io/1.6.0/classes/api_activity, and the objects that it refers to.
"""

import json

from tests.support.builders.audit_rows import MORNING, batch_id
from worker.db.audit.stream import ChunkHead, ChunkItems
from worker.usecases.audit_export.ocsf import format_ocsf

HEAD = ChunkHead(
    *(1, 0, 1, 1, MORNING, 60, "key-1", "acme", "billing", "ann", "why", "demo", "upload"),
    *(batch_id(1), 600),
)
REQUIRED = {
    "activity_id": int,
    "actor": dict,
    "api": dict,
    "category_uid": int,
    "class_uid": int,
    "metadata": dict,
    "severity_id": int,
    "src_endpoint": dict,
    "time": int,
    "type_uid": int,
}


def test_events_have_all_required_attributes() -> None:
    items = [(1, 0, "acme/ü\n", None), (1, 1, "../x", "key_traversal")]
    lines = format_ocsf([ChunkItems(HEAD, items)]).splitlines()
    assert len(lines) == len(items)
    for event in map(json.loads, lines):
        assert {name: type(event.get(name)) for name in REQUIRED} == REQUIRED
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"] == 600301
        assert event["metadata"]["version"] == "1.6.0"
        assert event["metadata"]["product"]["vendor_name"]
        assert event["api"]["operation"] == "grant.upload"
        assert event["actor"]["user"]["name"] == "billing"
        assert all(resource["name"] for resource in event["resources"])
