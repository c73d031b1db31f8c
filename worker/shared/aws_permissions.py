"""The AWS permissions of the service: each action, its resource, who needs it, and for what.

Here are those of the core. Features contribute their own, as `actions`: the policies that
`permissions` prints, the checks of `doctor`, and docs/reference/permissions.md have all of them.

Source: AWS, "Actions, resources, and condition keys" of Amazon S3, SQS, IAM, STS and KMS in the
Service Authorization Reference (list_amazons3.html and others).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from worker.features import contributions, load_each, resolve
from worker.rules.issued_grants import may_store
from worker.rules.role_session import bucket_arn, object_arns
from worker.rules.tenant_config import Bucket, Policy, TenantConfig, is_ordinary_bucket
from worker.shared.limited_sessions import below

Principal = Literal["signer", "workers"]
"""Who needs a permission.

signer: the role of the bucket profile, or its AWS profile if it has none. workers: its AWS profile.
"""

Scope = Literal["objects", "bucket", "listing", "key", "queue", "role"]
"""The resource of a permission. listing: the bucket, for names that begin with a prefix."""

_ALIAS = ":alias/"


@dataclass(frozen=True)
class ProfileUse:
    """The use of one bucket profile.

    policies: those of all tenants. counts_stored: whether a quota counts what they store.
    own_prefixes: those that features use themselves. options: prefixes by option of
    `permissions iam`, for what only an operator runs; those of --with have an empty one.
    """

    bucket: Bucket
    policies: tuple[Policy, ...] = ()
    counts_stored: bool = False
    own_prefixes: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def prefixes(self, *kinds: str) -> tuple[str, ...]:
        """Return the prefixes of the policies that allow one of these kinds."""
        return self.prefixes_if(lambda policy: not set(kinds).isdisjoint(policy.kinds))

    def prefixes_if(self, condition: Callable[[Policy], Any]) -> tuple[str, ...]:
        """Return the prefixes of the policies for which a condition is true."""
        return tuple(
            prefix for policy in self.policies if condition(policy) for prefix in policy.prefixes
        )

    @property
    def stores(self) -> tuple[str, ...]:
        """The prefixes below which tenants may store objects."""
        return self.prefixes_if(may_store)

    def kms_keys(self, *, by_alias: bool) -> tuple[str, ...]:
        """Return the keys of KMS that policies name, by their id or by an alias."""
        keys = {key for policy in self.policies for key in policy.kms_keys}
        return tuple(sorted(key for key in keys if (_ALIAS in key) is by_alias))


DOCTOR_PREFIX = "valetkey-doctor/"
"""The prefix of what `doctor` looks for and, with --live, stores."""

Find = Callable[[ProfileUse], tuple[str, ...]]


class Permission(NamedTuple):
    """Actions on one kind of resource, for one feature.

    sid: the name of its statement. reason: why the feature needs it. condition: when it does, for
    the page of reference. find: returns the prefixes of object keys below which a bucket profile
    needs it, or the ARNs of its other resources; nothing if it does not. Or the name of an option.
    """

    sid: str
    feature: str
    actions: tuple[str, ...]
    scope: Scope
    reason: str
    condition: str
    find: Find | str
    principal: Principal = "signer"

    def targets(self, use: ProfileUse) -> tuple[str, ...]:
        """Return the prefixes or ARNs for which a bucket profile needs it."""
        return self.find(use) if callable(self.find) else use.options.get(self.find, ())


def role_arns(use: ProfileUse) -> tuple[str, ...]:
    """Return the role of a bucket profile, if it has one."""
    return (use.bucket.role_arn,) if use.bucket.role_arn else ()


_KMS = "a policy has `kms_keys`; the keys by which a bucket encrypts by default must be added"

OBJECTS: tuple[Permission, ...] = (
    Permission(
        "Downloads",
        "downloads",
        ("s3:GetObject",),
        "objects",
        "a link reads an object",
        "a policy has the kind `download`",
        lambda use: use.prefixes("download"),
    ),
    Permission(
        "Versions",
        "downloads and probes",
        ("s3:GetObjectVersion",),
        "objects",
        "a link or an event names a version of an object; remove this if no version is kept",
        "a policy allows anything",
        lambda use: use.prefixes_if(lambda _: True),
    ),
    Permission(
        "Uploads",
        "forms, PUTs, multipart uploads, manifests",
        ("s3:PutObject",),
        "objects",
        "a form, a PUT or a part stores an object; so does the manifest of a batch",
        "a policy has the kind `upload`, `put` or `multipart`",
        lambda use: use.stores,
    ),
    Permission(
        "UploadAcls",
        "ACLs of uploads",
        ("s3:PutObjectAcl",),
        "objects",
        "an upload sets an ACL",
        "a policy that allows uploads has `acls`",
        lambda use: use.prefixes_if(lambda policy: policy.acls and may_store(policy)),
    ),
    Permission(
        "UploadTags",
        "tags of uploads",
        ("s3:PutObjectTagging",),
        "objects",
        "an upload sets tags; remove this if no producer requests any",
        "a policy has the kind `upload`, `put` or `multipart`",
        lambda use: use.stores,
    ),
    Permission(
        "AbortUploads",
        "multipart uploads",
        ("s3:AbortMultipartUpload",),
        "objects",
        "a producer or the cleanup aborts an upload, so that its bytes leave the quota",
        "a policy has the kind `multipart`",
        lambda use: use.prefixes("multipart"),
    ),
    Permission(
        "FindUploads",
        "multipart uploads",
        ("s3:ListBucketMultipartUploads",),
        "bucket",
        "the cleanup finds uploads whose id was lost; AWS has no condition for a prefix",
        "a policy has the kind `multipart`",
        lambda use: use.prefixes("multipart"),
    ),
    Permission(
        "Probes",
        "probes, events, manifests",
        ("s3:GetObject",),
        "objects",
        "the service reads size and grant id of what upload slots stored, by HEAD",
        "a policy has the kind `upload`, `put` or `multipart`",
        lambda use: use.stores,
    ),
)

KEYS: tuple[Permission, ...] = (
    Permission(
        "KmsRead",
        "objects under a KMS key",
        ("kms:Decrypt",),
        "key",
        "links, probes and multipart uploads use objects that are encrypted with the key",
        _KMS,
        lambda use: use.kms_keys(by_alias=False),
    ),
    Permission(
        "KmsWrite",
        "objects under a KMS key",
        ("kms:GenerateDataKey",),
        "key",
        "uploads are encrypted with the key",
        _KMS,
        lambda use: use.kms_keys(by_alias=False) if use.stores else (),
    ),
    Permission(
        "KmsAliases",
        "objects under a KMS key",
        ("kms:Decrypt", "kms:GenerateDataKey"),
        "key",
        "as for other keys; a policy of IAM names a key that has an alias by a condition",
        "a policy has the alias of a key in `kms_keys`",
        lambda use: use.kms_keys(by_alias=True),
    ),
)

ROLES: tuple[Permission, ...] = (
    Permission(
        "AssumeRole",
        "role sessions",
        ("sts:AssumeRole",),
        "role",
        "a session of the role signs the grants of each tenant",
        "the bucket profile has `role_arn`",
        role_arns,
        "workers",
    ),
)


def has_iam(bucket: Bucket) -> bool:
    """Return true for the kinds of buckets that this table is about.

    R2 has no IAM. Directory buckets, S3 Object Lambda and S3 on Outposts have actions of their own.
    """
    name = bucket.bucket
    is_point = name.startswith("arn:") and name.split(":")[2] == "s3"
    has_alias = name.endswith("-s3alias")
    return bucket.provider != "r2" and (is_point or is_ordinary_bucket(name)) and not has_alias


class Need(NamedTuple):
    """A permission that one bucket profile needs.

    targets: the prefixes of object keys below which it does, or the ARNs of other resources.
    """

    permission: Permission
    bucket: Bucket
    targets: tuple[str, ...]

    def statement(self) -> dict[str, Any]:
        """Return the statement of an IAM policy that allows it."""
        actions = self.permission.actions
        return {
            "Sid": self.permission.sid,
            "Effect": "Allow",
            "Action": actions[0] if len(actions) == 1 else list(actions),
            **self._resources(),
        }

    def _resources(self) -> dict[str, Any]:
        arn = bucket_arn(aws_partition(self.bucket.region), self.bucket.bucket)
        match self.permission.scope:
            case "objects":
                return {"Resource": _one_or_all(object_arns(arn, self.targets))}
            case "bucket":
                return {"Resource": arn}
            case "listing":
                return {"Resource": arn, "Condition": below(self.targets)}
            case "key":
                return _keys(self.bucket, self.targets)
            case _:
                return {"Resource": _one_or_all(list(self.targets))}


def _one_or_all(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def _keys(bucket: Bucket, arns: tuple[str, ...]) -> dict[str, Any]:
    """Return keys of KMS, which only S3 may use, all by their id or all by an alias.

    Source: AWS, "kms:ViaService" and "kms:ResourceAliases" (conditions-kms.html).
    """
    service = f"s3.{bucket.region}.{aws_domain(bucket.region)}"
    condition = {"StringEquals": {"kms:ViaService": service}}
    aliases = [f"alias/{arn.partition(_ALIAS)[2]}" for arn in arns if _ALIAS in arn]
    if not aliases:
        return {"Resource": _one_or_all(list(arns)), "Condition": condition}
    resources = sorted({f"{arn.partition(_ALIAS)[0]}:key/*" for arn in arns})
    has_alias = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": aliases}}
    return {"Resource": _one_or_all(resources), "Condition": condition | has_alias}


def all_permissions() -> tuple[Permission, ...]:
    """Return the `actions` of the core and the features, in the order of their names."""
    references = sorted(contributions("actions").items())
    return tuple(permission for _, each in references for permission in resolve(each))


def find_needs(use: ProfileUse) -> Iterator[Need]:
    """Yield what a bucket profile needs, in the order of the table; nothing without IAM."""
    if not has_iam(use.bucket):
        return
    for permission in all_permissions():
        if targets := permission.targets(use):
            by_prefix = permission.scope in {"objects", "listing"}
            yield Need(permission, use.bucket, outermost(targets) if by_prefix else targets)


def outermost(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Sort prefixes, without those that another one contains."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def _counted_profiles(config: TenantConfig) -> frozenset[str]:
    """Return the profiles of ordinary buckets whose stored bytes a quota counts."""
    return frozenset(
        policy.bucket
        for tenant in config.tenants.values()
        if any(quota.metric == "stored_bytes" for quota in tenant.quotas)
        for policy in tenant.policies.values()
        if may_store(policy) and is_ordinary_bucket(config.buckets[policy.bucket].bucket)
    )


def own_prefixes() -> dict[str, tuple[str, ...]]:
    """Return the prefixes that features use themselves, by bucket profile."""
    prefixes: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for find in load_each("own_prefixes"):
        for profile, own in find().items():
            prefixes[profile] += own
    return prefixes


def profile_uses(
    config: TenantConfig, options: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> Iterator[ProfileUse]:
    """Yield the use of each bucket profile; options are by its name."""
    counted, own = _counted_profiles(config), own_prefixes()
    policies: defaultdict[str, list[Policy]] = defaultdict(list)
    for tenant in config.tenants.values():
        for policy in tenant.policies.values():
            policies[policy.bucket].append(policy)
    for name, bucket in config.buckets.items():
        yield ProfileUse(
            bucket,
            tuple(policies[name]),
            counts_stored=name in counted,
            own_prefixes=own.get(name, ()),
            options=options.get(name, {}),
        )


def aws_partition(region: str) -> str:
    """Return the partition of AWS that has a region."""
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for prefix, name in prefixes.items() if region.startswith(prefix)), "aws")


def aws_domain(region: str) -> str:
    """Return the domain of AWS in which a region's services are."""
    return "amazonaws.com.cn" if aws_partition(region) == "aws-cn" else "amazonaws.com"
