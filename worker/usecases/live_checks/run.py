"""Runs the live checks against one bucket profile, and deletes what they wrote."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from worker.aws.clients import S3Clients
from worker.aws.credentials import CredentialCache
from worker.core.tenants.config import Bucket
from worker.errors import Malformed, Transient
from worker.net.storage_requests import StorageRequest, StorageResponse
from worker.usecases.live_checks.check import LiveCheck
from worker.usecases.live_checks.findings import (
    FIRST_FAILED,
    Finding,
    Outcome,
    Verdict,
    describe_answer,
    judge_misuse,
    judge_use,
)
from worker.usecases.live_checks.form_checks import FORM_CHECKS
from worker.usecases.live_checks.grants import LiveGrants
from worker.usecases.live_checks.leftovers import Deleter
from worker.usecases.live_checks.link_checks import LINK_CHECKS
from worker.usecases.live_checks.multipart_checks import MULTIPART_CHECKS
from worker.usecases.live_checks.probe import Probe, StepFailed
from worker.usecases.live_checks.put_checks import PUT_CHECKS

LIVE_CHECKS: tuple[LiveCheck, ...] = (*PUT_CHECKS, *LINK_CHECKS, *FORM_CHECKS, *MULTIPART_CHECKS)
"""All checks. The first stores an object; if it fails, the others are not tried."""

_SETTLE_SECONDS = 3.0  # for requests that were under way when the run was interrupted


@dataclass
class LiveRun:
    """One run: its findings come from `findings`; `delete` must be called in any case."""

    probe: Probe
    deleter: Deleter
    checks: tuple[LiveCheck, ...] = LIVE_CHECKS
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """Run each check in turn."""
        for check in self.checks:
            finding = self._examine(check)
            self.verdicts[check.grant, check.name] = finding.verdict
            yield finding

    def delete(self) -> list[str]:
        """Delete what was written. Return a line for each thing that is left."""
        self.probe.wait_for_calls(_SETTLE_SECONDS)
        return list(self.deleter.delete(self.probe.leftovers, self.probe.send_delete))

    def _examine(self, check: LiveCheck) -> Finding:
        reason, finding = self._skip_reason(check), _untried(check)
        if reason:
            return finding._replace(note=reason)
        try:
            outcome = check.act(self.probe)
        except StepFailed as failure:
            verdict, words = judge_use(Outcome(failure.response))
            note = f"{failure.step}: {words}"
            return finding._replace(
                verdict=verdict, answer=describe_answer(failure.response), note=note
            )
        except (Malformed, Transient) as error:
            return finding._replace(verdict="error", note=str(error))
        verdict, note = judge_misuse(outcome.response) if check.is_misuse else judge_use(outcome)
        answer = describe_answer(outcome.response)
        return finding._replace(verdict=verdict, answer=answer, note=note)

    def _skip_reason(self, check: LiveCheck) -> str:
        first = self.checks[0]
        if self.verdicts.get((first.grant, first.name), "ok") != "ok":
            return FIRST_FAILED
        if check.needs is not None and self.verdicts.get(check.needs) != "ok":
            return f"proves nothing, because {check.needs[1]!r} failed"
        return check.condition(self.probe.grants.bucket)


@dataclass(frozen=True)
class LiveServices:
    """The dependencies of runs: credentials and targets, those for the deletion, HTTP and time."""

    s3: S3Clients
    deletion_credentials: CredentialCache
    send: Callable[[StorageRequest, float], StorageResponse]
    now: Callable[[], datetime]


def prepare_run(services: LiveServices, bucket: Bucket, prefix: str) -> LiveRun:
    """Prepare a run whose objects are under a new prefix below `prefix`.

    Raises Malformed or Transient if boto3 cannot sign for the bucket profile.
    """
    s3, now = services.s3, services.now
    own_prefix = f"{prefix}{secrets.token_hex(8)}/"
    grants = LiveGrants(s3, bucket, own_prefix, now)
    probe = Probe(grants, s3.target(bucket), services.send)
    # The whole prefix: one check tries to write beside its own one.
    deleter = Deleter(s3, services.deletion_credentials, bucket, prefix, now)
    return LiveRun(probe, deleter)


def findings_of_unusable_profile(error: str) -> list[Finding]:
    """Return the findings on a bucket profile that boto3 cannot sign for."""
    first, *others = (_untried(check) for check in LIVE_CHECKS)
    return [
        first._replace(verdict="error", note=error),
        *(finding._replace(note=FIRST_FAILED) for finding in others),
    ]


def deletion_finding(left: Sequence[str]) -> Finding:
    """Return the finding on the deletion, from the lines of what is left."""
    finding = Finding("all", "everything is deleted", "accepted", "ok")
    return finding._replace(verdict="error", note="; ".join(left)) if left else finding


def _untried(check: LiveCheck) -> Finding:
    expected: Literal["accepted", "refused"] = "refused" if check.is_misuse else "accepted"
    return Finding(check.grant, check.name, expected, "not tried")
