"""The commands `permissions`, which print what AWS must allow the service, and how it guards it."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import click

from valetkey.cli.format_options import add_options, format_option
from worker.errors import Malformed
from worker.permissions.bucket_documents import (
    bucket_policy,
    cors_rules,
    lifecycle_rules,
    redirect_origins,
)
from worker.permissions.documents import (
    Document,
    format_json,
    format_shell,
    format_terraform,
)
from worker.permissions.guardrails import Attachment, Limits, guardrails
from worker.permissions.iam_documents import iam_documents
from worker.rules.issued_grants import is_on_aws, storage_name
from worker.rules.tenant_config import Bucket, DefaultEndpoints, TenantConfig, is_ordinary_bucket
from worker.settings import Settings
from worker.shared.aws_permissions import (
    DOCTOR_PREFIX,
    ProfileUse,
    has_iam,
    own_prefixes,
    profile_uses,
)
from worker.shared.pages import did_you_mean
from worker.tenants.apply_command import read_config

_DEFAULT_FILE = Path("tenants.toml")


class _S3Prefix(NamedTuple):
    profile: str
    prefix: str


_Places = Mapping[str, tuple[_S3Prefix, ...]]


class _S3PrefixType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """s3://PROFILE/PREFIX, a prefix in the bucket of a bucket profile."""

    name = "s3://PROFILE/PREFIX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> _S3Prefix:
        profile, slash, prefix = str(value).removeprefix("s3://").partition("/")
        if not (str(value).startswith("s3://") and profile and slash):
            self.fail("write s3://PROFILE/PREFIX with the name of a bucket profile", param, ctx)
        return _S3Prefix(profile, prefix)


_Callback = Callable[[click.Context, click.Parameter, Any], Any]


def _each(check: Callable[[str], object]) -> _Callback:
    """Return a callback that calls check for each value of an option; it raises BadParameter."""

    def check_all(_context: click.Context, _param: click.Parameter, value: Any) -> Any:
        for text in [value] if isinstance(value, str) and value else value or ():
            check(text)
        return value

    return check_all


_is_principal = re.compile(
    r"arn:aws[a-z-]*:iam::[0-9]{12}:(user|role)/[A-Za-z0-9+=,.@_/-]+"
).fullmatch
_is_vpc = re.compile("vpc-[0-9a-f]{8,17}").fullmatch
_is_origin = re.compile(r"https?://[A-Za-z0-9.*-]+(:[0-9]{1,5})?").fullmatch


def _check_principal(arn: str) -> None:
    if not _is_principal(arn):
        raise click.BadParameter(
            "a user or role is given by its full ARN, like"
            " arn:aws:iam::111122223333:role/valetkey-worker"
        )


def _check_network(network: str) -> None:
    try:
        is_public = ip_network(network).is_global
    except ValueError as error:
        raise click.BadParameter(f"a network is like 198.51.100.0/24: {error}") from None
    if not is_public:
        text = f"{network} is not public: requests from a VPC have no address, so name the VPC"
        raise click.BadParameter(f"{text} by --vpc")


def _check_vpc(vpc: str) -> None:
    if not _is_vpc(vpc):
        raise click.BadParameter("a VPC is like vpc-0a1b2c3d4e5f67890")


def _check_origin(origin: str) -> None:
    if origin != "*" and (origin.count("*") > 1 or not _is_origin(origin)):
        raise click.BadParameter(
            "an origin is a scheme, a host and an optional port, like https://app.example.com"
            ' without a path; "*" is every page'
        )


_file_options = add_options(
    click.option(
        "--file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"The tenants file.  [default: {_DEFAULT_FILE}]",
    ),
    format_option("--json", "Print one JSON object with the documents alone, by name."),
    format_option("--terraform", "Print resources of Terraform's provider for AWS."),
)
_profile_option = click.option(
    "--profile",
    "names",
    multiple=True,
    help="Only the documents that concern this bucket profile.",
)


@click.group()
def permissions() -> None:
    """Print the AWS policies that the service needs.

    They allow only what the features in your tenants file and settings need. By default, they are
    printed with commands of AWS' command line, which change nothing until you run them, and with
    the reason of each statement. docs/reference/permissions.md has all features.
    """


@permissions.command()
@_file_options
@_profile_option
@click.option(
    "--with",
    "features",
    type=click.Choice(["revoke", "end-sessions"]),
    multiple=True,
    help="Also allow `revoke`, or `revoke --end-sessions`.",
)
@click.option(
    "--logs", type=_S3PrefixType(), multiple=True, help="Also allow `uses import` from there."
)
@click.option(
    "--export", type=_S3PrefixType(), multiple=True, help="Also allow `audit export` there."
)
@click.option(
    "--live",
    type=_S3PrefixType(),
    multiple=True,
    help=f"Also allow `doctor --live` there. Its prefix is {DOCTOR_PREFIX} by default.",
)
@click.option(
    "--worker",
    "worker_arn",
    metavar="ARN",
    callback=_each(_check_principal),
    help="The user or role of the workers, for the trust policies of roles that sign.",
)
def iam(
    *, file: Path | None, names: tuple[str, ...], worker_arn: str | None, **options: Any
) -> None:
    """Print the least IAM policies of the credentials that sign, and of the workers.

    What an operator's commands need is left out unless it is named: --with revoke lets the service
    change the policies of buckets. Give all of these options each time, as a policy replaces the
    earlier one.

    \b
    Examples:
      python -m worker permissions iam --file examples/tenants.toml
      python -m worker permissions iam --with revoke --terraform
      python -m worker permissions iam --logs s3://logs/acme-reports/
    """
    output_format, features = options.pop("output_format"), options.pop("features")
    config = _read_file(file)
    uses = _uses(config, names, _options_by_profile(config, features, cast("_Places", options)))
    left_out = [f"--with {name}" for name in ("revoke", "end-sessions") if name not in features]
    left_out += [f"--{option}" for option, places in options.items() if not places]
    notes = [*_iam_notes(uses, worker_arn)]
    if left_out:
        notes.append(f"Left out. Add an option to allow it: {', '.join(left_out)}.")
    try:
        documents = list(iam_documents(uses, worker_arn, names))
    except Malformed as error:
        raise click.ClickException(str(error)) from None
    _print(documents, notes, output_format)


@permissions.command()
@_file_options
@_profile_option
def bucket(*, file: Path | None, names: tuple[str, ...], output_format: str | None) -> None:
    """Print the policy of each bucket.

    It denies plain HTTP, version 2 of signatures, and signatures that are older than the longest
    lifetime that a policy allows.

    \b
    Example:
      python -m worker permissions bucket --file examples/tenants.toml
    """
    groups = _buckets(_uses(_read_file(file), names), names)
    notes = [note for uses in groups for note in _bucket_notes(uses)]
    _print([bucket_policy(uses) for uses in groups], [*notes, *_BUCKET_NOTES], output_format)


@permissions.command()
@_file_options
@_profile_option
@click.option(
    "--origin",
    "origins",
    multiple=True,
    callback=_each(_check_origin),
    help="The origin of a page; unset: those of the redirects in the file.",
)
def cors(
    *,
    file: Path | None,
    names: tuple[str, ...],
    origins: tuple[str, ...],
    output_format: str | None,
) -> None:
    """Print the CORS rules with which programs in pages can use grants.

    A form works without them, but its page cannot read the answer. A page that is opened as a file
    has no origin: it needs "*".

    \b
    Example:
      python -m worker permissions cors --origin https://app.example.com
    """
    groups = _buckets(_uses(_read_file(file), names), names)
    documents = [
        cors_rules(uses, allowed)
        for uses in groups
        if (allowed := origins or redirect_origins(uses))
    ]
    if groups and not documents:
        raise click.UsageError("no policy has redirects: name the page by --origin")
    _print(documents, _CORS_NOTES, output_format)


@permissions.command()
@_file_options
@_profile_option
def lifecycle(*, file: Path | None, names: tuple[str, ...], output_format: str | None) -> None:
    """Print the lifecycle rules that abort multipart uploads which nobody completed.

    \b
    Example:
      python -m worker permissions lifecycle --file examples/tenants.toml
    """
    groups = _buckets(_uses(_read_file(file), names), names)
    documents = [document for uses in groups if (document := lifecycle_rules(uses))]
    _print(documents, _LIFECYCLE_NOTES, output_format)


@permissions.command("guardrails")
@_file_options
@click.option(
    "--as",
    "attachment",
    type=click.Choice(get_args(Attachment)),
    default="rcp",
    show_default=True,
    help="A policy of AWS Organizations: for resources (rcp), or for users and roles (scp).",
)
@click.option(
    "--principal",
    "principals",
    metavar="ARN",
    multiple=True,
    callback=_each(_check_principal),
    help="A user or role that may presign, beside the roles in the file.",
)
@click.option(
    "--network",
    "networks",
    metavar="CIDR",
    multiple=True,
    callback=_each(_check_network),
    help="A public network from which links and forms may be used; unset: everywhere.",
)
@click.option(
    "--vpc",
    "vpcs",
    metavar="ID",
    multiple=True,
    callback=_each(_check_vpc),
    help="A VPC from which they may be used, through its endpoint of S3.",
)
def guardrails_command(
    *, file: Path | None, attachment: Attachment, output_format: str | None, **limits: Any
) -> None:
    """Print AWS' guardrails for presigned requests, as a policy of an organization.

    They allow signatures up to the longest lifetime in the file, and count all bucket profiles.
    Only the roles in the file and --principal may presign: without --principal this needs a role
    in each bucket profile.

    \b
    Examples:
      python -m worker permissions guardrails --file examples/tenants.toml
      python -m worker permissions guardrails --as scp --network 198.51.100.0/24
    """
    uses = [use for use in _uses(_read_file(file)) if use.bucket.provider == "aws"]
    roles = sorted({use.bucket.role_arn for use in uses if use.bucket.role_arn})
    has_role = all(use.bucket.role_arn for use in uses)
    principals = limits["principals"]
    signers = (*roles, *principals) if has_role or principals else ()
    notes = list(_GUARDRAIL_NOTES)
    if not signers:
        notes.append(
            "Anybody may presign: a profile has no role_arn, and --principal is not given."
        )
    try:
        limited = Limits(signers, limits["networks"], limits["vpcs"])
        document = guardrails(uses, attachment, limited)
    except Malformed as error:
        raise click.ClickException(str(error)) from None
    _print([document] if uses else [], notes, output_format)


def _options_by_profile(
    config: TenantConfig, features: Iterable[str], places: _Places
) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Return the prefixes by option of each bucket profile. A feature concerns all profiles."""
    by_profile: defaultdict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for name in config.buckets:
        by_profile[name].update(dict.fromkeys(features, ("",)))
    for option, prefixes in places.items():
        for profile, prefix in prefixes:
            _check_profiles([profile], config)
            known = by_profile[profile].get(option, ())
            by_profile[profile][option] = (*known, prefix)
    return by_profile


def _read_file(file: Path | None) -> TenantConfig:
    if file is None and not _DEFAULT_FILE.exists():
        raise click.UsageError(f"there is no {_DEFAULT_FILE} here: name the tenants file by --file")
    return read_config(file or _DEFAULT_FILE)


def _uses(
    config: TenantConfig,
    names: Sequence[str] = (),
    options: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
) -> list[ProfileUse]:
    """Return the use of each bucket profile, with the endpoints that apply."""
    _check_profiles(names, config)
    settings = Settings()
    _check_profiles(own_prefixes(), config, "a setting names a prefix: ")
    endpoints = DefaultEndpoints(settings.s3_endpoint, settings.s3_internal_endpoint)
    uses = profile_uses(config, options or {})
    return [replace(use, bucket=_resolve(use.bucket, endpoints)) for use in uses]


def _resolve(bucket: Bucket, endpoints: DefaultEndpoints) -> Bucket:
    public, internal = endpoints.public_of(bucket), endpoints.internal_of(bucket)
    is_mistaken = bucket.provider == "aws" and not is_on_aws(bucket, public)
    provider = "other" if is_mistaken else bucket.provider
    return replace(bucket, endpoint=public, internal_endpoint=internal, provider=provider)


def _check_profiles(names: Iterable[str], config: TenantConfig, source: str = "") -> None:
    for name in names:
        if name not in config.buckets:
            hint = did_you_mean(name, config.buckets)
            raise click.UsageError(f"{source}there is no bucket profile {name!r}{hint}")


def _buckets(uses: Iterable[ProfileUse], names: Sequence[str]) -> list[list[ProfileUse]]:
    """Return the uses of each real bucket in which a policy allows something.

    Access points have no such documents. With names, only the buckets of these profiles.
    """
    groups: defaultdict[str, list[ProfileUse]] = defaultdict(list)
    for use in uses:
        if has_iam(use.bucket) and is_ordinary_bucket(use.bucket.bucket) and use.policies:
            groups[storage_name(use.bucket)].append(use)
    return [
        group
        for group in groups.values()
        if not names or any(use.bucket.name in names for use in group)
    ]


_NOT_ON_AWS = "No document was tried on AWS."
_BUCKET_NOTES = (
    "Tried on SeaweedFS: it refuses plain HTTP, and lets old signatures pass.",
    _NOT_ON_AWS,
)
_CORS_NOTES = ("Tried on SeaweedFS and Ceph RGW, with the preflight of a browser.", _NOT_ON_AWS)
_LIFECYCLE_NOTES = (
    "SeaweedFS and Ceph RGW take the rules. Their effect is not tested.",
    _NOT_ON_AWS,
)
_GUARDRAIL_NOTES = (
    "Attach the policy to one organizational unit first, and look for refusals in CloudTrail.",
    "Checked against the grammar of AWS only: no server of the tests has these policies.",
    _NOT_ON_AWS,
)


def _bucket_notes(uses: Sequence[ProfileUse]) -> Iterator[str]:
    bucket = uses[0].bucket
    if any(
        str(endpoint).startswith("http:")
        for endpoint in (bucket.endpoint, bucket.internal_endpoint)
    ):
        yield f"{bucket.name}: plain HTTP is not denied, as its endpoint is http://."
    elif bucket.provider == "other":
        yield f"{bucket.name}: behind a proxy that ends TLS, TlsOnly would deny every request."
    if bucket.role_arn and bucket.owner not in {None, bucket.role_arn.split(":")[4]}:
        yield (
            f"{bucket.name}: the bucket of another account must also allow the role"
            f" {bucket.role_arn} what `permissions iam` prints; `revoke` cannot change its policy."
        )


def _iam_notes(uses: Sequence[ProfileUse], worker_arn: str | None) -> Iterator[str]:
    for use in uses:
        bucket = use.bucket
        if bucket.provider == "r2":
            yield (
                f"{bucket.name} is on R2, which has no IAM: create an API token for the bucket with"
                " the permission Object Read & Write."
            )
        elif not has_iam(bucket):
            yield f"{bucket.name}: no policy, as AWS has other actions for this kind of bucket."
        elif bucket.provider == "other":
            yield f"{bucket.name} is not on AWS: its server may not know all of these actions."
        elif bucket.bucket.startswith("arn:"):
            yield f"{bucket.name}: the bucket behind the access point must delegate to it."
    if worker_arn is None and any(use.bucket.role_arn for use in uses):
        yield "Add --worker ARN, the workers' user or role, for the trust policy of each role."
    yield (
        "Proven with moto's IAM: the service's own calls work with these actions and resources, and"
        " without any one action some call is refused. Not proven: presigned requests, conditions,"
        " KMS, and the session policies of roles."
    )
    yield _NOT_ON_AWS


def _print(documents: Sequence[Document], notes: Iterable[str], output_format: str | None) -> None:
    if not documents:
        notes = ["No bucket profile of the file needs such a document."]
    if output_format == "json":
        click.echo(format_json(documents))
    elif output_format == "terraform":
        click.echo(format_terraform(documents, notes), nl=False)
    else:
        click.echo(format_shell(documents, notes), nl=False)
