"""The policy on a role that ends all sessions of the role from before a moment.

Sources: AWS, "Revoke IAM role temporary security credentials" (id_roles_use_revoke-sessions.html),
and "AWS global condition context keys" (reference_policies_condition-keys.html).
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from valetkey.units import format_utc
from worker.errors import Malformed

POLICY_NAME = "ValetkeyRevokeOlderSessions"
LONGEST_SESSION = timedelta(hours=12)
"""The longest duration of a role's session (AWS: API_AssumeRole.html)."""


def older_sessions_policy(sessions_from: datetime) -> str:
    """Return the policy that denies everything to the sessions from before a moment.

    Times of issue have whole seconds, and so must the moment have them.
    """
    condition = {"DateLessThan": {"aws:TokenIssueTime": format_utc(sessions_from)}}
    statement = {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    return json.dumps(policy, separators=(",", ":"))


def read_sessions_from(policy: Any) -> datetime:
    """Return the moment in a policy of ours, as JSON or its values. Raises Malformed."""
    try:
        document = json.loads(policy) if isinstance(policy, str) else policy
        (statement,) = document["Statement"]
        text = statement["Condition"]["DateLessThan"]["aws:TokenIssueTime"]
        moment = datetime.fromisoformat(text).astimezone(UTC)
        is_ours = document == json.loads(older_sessions_policy(moment))
    except (ValueError, TypeError, KeyError, RecursionError):
        is_ours = False
    if not is_ours:
        text = f"the role's policy {POLICY_NAME} is not the one that this service writes: remove it"
        raise Malformed(text)
    return moment
