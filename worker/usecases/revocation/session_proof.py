"""Proves the end of a role's sessions: a session from before is served, and then refused."""

from collections.abc import Iterable
from typing import NamedTuple

from worker.aws.stored_files import FileReader, StoredFile
from worker.context import Context
from worker.core.revocation.levers import Lever
from worker.core.revocation.targets import LiveGrant
from worker.usecases.revocation.plan import RevocationPlan
from worker.usecases.revocation.proof import Proof, await_refusal
from worker.usecases.revocation.statements import SESSION

_PROOF_SECONDS = 60.0  # IAM applies a policy within seconds, and sometimes in a few minutes
_MAX_CANDIDATES = 3


class SessionRequest(NamedTuple):
    """A request for an object that storage answered, and the credentials of its session."""

    reader: FileReader
    object_key: str

    def is_refused(self) -> bool:
        """Send it, and return true if the session may no longer do it. Raises Transient."""
        return self.reader.find(self.object_key) == "hidden"


def provable_grants(lever: Lever, plan: RevocationPlan) -> list[LiveGrant]:
    """Return the downloads that can prove the end of a role's sessions.

    The request is signed in its headers: on AWS, no statement in the policy of the bucket denies
    it, and so its refusal is that of the role. On other storage, the statement would refuse it.
    """
    denied = frozenset().union(*(denial.targets for denial in plan.denials))
    return [
        grant
        for grant in plan.targeted
        if grant.kind == "download"
        and grant.full_id in lever.targets
        and (grant.bucket in plan.on_aws or grant.full_id not in denied)
    ]


def find_session_request(
    grants: Iterable[LiveGrant], plan: RevocationPlan, context: Context
) -> SessionRequest | None:
    """Return a request for the object of one of these downloads that storage answers, or None.

    Raises Transient and Malformed.
    """
    objects = dict.fromkeys((grant.bucket, grant.object_key) for grant in grants)
    for profile, object_key in list(objects)[:_MAX_CANDIDATES]:
        bucket = plan.config.buckets[profile]
        reader = context.s3.file_reader(bucket, SESSION, (object_key,), context.now())
        if isinstance(reader.find(object_key), StoredFile):
            return SessionRequest(reader, object_key)
    return None


def prove_end(request: SessionRequest) -> Proof:
    """Repeat a request until storage refuses it, or IAM's time is over. Raises Transient."""
    return await_refusal(request.is_refused, _PROOF_SECONDS)
