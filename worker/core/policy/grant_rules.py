"""Which terms may be granted: a batch's own, held against its tenant's policy, field by field."""

import re

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Download, Put, StorageTerms, Upload
from worker.core.policy import storage_rules
from worker.core.policy.items import filename_refusal
from worker.core.policy.rules import PolicyContext, Rule, describe_field, field_rule, refuse
from worker.core.signing.disposition import is_valid_filename
from worker.core.tenants.config import Policy

_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*").fullmatch
_TYPES = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/\*").fullmatch
_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?").fullmatch
# A browser runs these: a wildcard never means them, they must be allowed by name.
_ACTIVE = re.compile(r".*(html|xml|svg|javascript|ecmascript|multipart).*").fullmatch
_ACTIVE_IN = {
    "application/*": "application/xhtml+xml",
    "image/*": "image/svg+xml",
    "text/*": "text/html",
}


def _kind(case: PolicyContext) -> Refusal | None:
    kind = case.terms.kind
    # Who may no longer begin an upload in parts may not go on with one either.
    needed = "multipart" if kind == "parts" else kind
    if needed in case.policy.kinds:
        return None
    text = f"the tenant may not {needed} here"
    return refuse(Code.KIND_NOT_ALLOWED, "grant.kind", text, sorted(case.policy.kinds))


def _check_owner(case: PolicyContext) -> Refusal | None:
    terms = case.terms
    if not (isinstance(terms, Download | Put) and terms.check_owner) or case.bucket.owner:
        return None
    text = "the bucket profile does not say which account owns it"
    return refuse(Code.OWNER_UNKNOWN, "grant.check_owner", text)


def _filename(terms: Download, _: Policy) -> Refusal | None:
    if terms.filename is None or is_valid_filename(terms.filename):
        return None
    return filename_refusal("grant.filename")


def _content_type(terms: Download | StorageTerms, policy: Policy) -> Refusal | None:
    value = terms.content_type
    if value is None:
        return None
    if isinstance(terms, Upload) and _TYPES(value):
        return _family(value, policy)
    if not _TYPE(value):
        text = "a content type is type/subtype in lower case, without parameters"
        return refuse(Code.CONTENT_TYPE_INVALID, "grant.content_type", text)
    wildcards = () if _ACTIVE(value) else (f"{value.partition('/')[0]}/*", "*/*")
    if not {value, *wildcards} & set(policy.content_types):
        allowed = list(policy.content_types)
        return refuse(Code.CONTENT_TYPE_NOT_ALLOWED, "grant.content_type", "not allowed", allowed)
    return None


def _family(value: str, policy: Policy) -> Refusal | None:
    # Whoever may choose within a family may choose what a browser runs, where it has that.
    active = _ACTIVE_IN.get(value)
    if value in policy.content_types and active in {None, *policy.content_types}:
        return None
    wanted = [name for name in (value, active) if name is not None]
    text = "to choose within it, the policy must name these"
    return refuse(Code.CONTENT_TYPE_NOT_ALLOWED, "grant.content_type", text, wanted)


def _inline(terms: Download, policy: Policy) -> Refusal | None:
    if not terms.inline or terms.content_type in policy.inline:
        return None
    text = "only these content types may be shown instead of saved"
    return refuse(Code.INLINE_NOT_ALLOWED, "grant.inline", text, list(policy.inline))


def _override(name: str) -> Rule[PolicyContext]:
    def refused(terms: Download, policy: Policy) -> Refusal | None:
        value = getattr(terms, name)
        if value is None:
            return None
        if name not in policy.overrides:
            text = "this response header is not the tenant's to set"
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", text, list(policy.overrides))
        if not _HEADER(value):
            return refuse(Code.OVERRIDE_NOT_ALLOWED, f"grant.{name}", "a header is printable ASCII")
        return None

    return field_rule(name, refused)


RULES: tuple[Rule[PolicyContext], ...] = (
    Rule("grant.kind", _kind, lambda case: case.terms.kind),
    Rule("grant.check_owner", _check_owner, lambda case: describe_field(case.terms, "check_owner")),
    field_rule("filename", _filename),
    field_rule("content_type", _content_type),
    field_rule("inline", _inline),
    *map(_override, ("cache_control", "content_language", "content_encoding", "expires")),
    *storage_rules.RULES,
)
"""Every question about a batch's terms, in the order in which they are asked."""
