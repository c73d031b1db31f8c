"""Verdicts on what storage answered to one check. Pure."""

from http import HTTPStatus
from typing import Literal, NamedTuple

from worker.net.storage_requests import StorageResponse

Verdict = Literal["ok", "not enforced", "not supported", "not tried", "error"]

GOOD_VERDICTS: frozenset[Verdict] = frozenset({"ok", "not tried"})

FIRST_FAILED = "the first check failed"
"""The note of checks that were not tried, as no object can be stored."""

_UNSUPPORTED_CODES = frozenset({"MethodNotAllowed", "NotImplemented", "UnsupportedOperation"})
_UNSUPPORTED_STATUSES = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


class Finding(NamedTuple):
    """The result of one check.

    grant: the kind of grant that was used.
    expected: the answer of a storage that supports and enforces everything.
    answer: storage's status and error code.
    note: storage's words, or the reason of a verdict that the answer does not explain.
    """

    grant: str
    check: str
    expected: Literal["accepted", "refused"]
    verdict: Verdict
    answer: str = ""
    note: str = ""


class Outcome(NamedTuple):
    """The last response of a check, and what is wrong with it although it is a success."""

    response: StorageResponse
    problem: str = ""


def describe_answer(response: StorageResponse) -> str:
    """Return the status and the error code of a response."""
    return f"{response.status} {response.code}".strip()


def judge_use(outcome: Outcome) -> tuple[Verdict, str]:
    """Return the verdict on a rightful use, and a note."""
    response = outcome.response
    if response.is_success:
        return ("error", outcome.problem) if outcome.problem else ("ok", "")
    if response.status in _UNSUPPORTED_STATUSES or response.code in _UNSUPPORTED_CODES:
        return "not supported", response.message
    return "error", response.message or "storage refused a rightful use"


def judge_misuse(response: StorageResponse) -> tuple[Verdict, str]:
    """Return the verdict on a misuse, and a note. Only a status from 400 to 499 is a refusal."""
    if response.is_success:
        return "not enforced", ""
    if response.status == HTTPStatus.NOT_IMPLEMENTED:
        return "not supported", response.message
    if HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return "ok", ""
    return "error", response.message or "neither a success nor a refusal"
