"""The commands `permissions`, which print what AWS must allow the service, and how it guards it."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click

from valetkey.cli.format_options import add_options, format_option
from worker.base.pages import did_you_mean
from worker.core.aws_permissions import DOCTOR_PREFIX, Option, ProfileUse, profile_uses
from worker.core.tenant_config import TenantConfig, is_ordinary_bucket
from worker.permissions.bucket_documents import (
    bucket_policy,
    cors_origins,
    cors_rules,
    lifecycle_rules,
)
from worker.permissions.documents import (
    Document,
    format_json,
    format_shell,
    format_terraform,
)
from worker.permissions.guardrails import Attachment, Limits, guardrails
from worker.permissions.iam_documents import iam_documents
from worker.settings import Settings, checkpoint_prefixes
from worker.tenants.apply_command import read_config

_DEFAULT_FILE = Path("tenants.toml")


class _Place(NamedTuple):
    profile: str
    prefix: str


class _S3Place(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """s3://PROFILE/PREFIX, a prefix in the bucket of a bucket profile."""

    name = "s3://PROFILE/PREFIX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> _Place:
        profile, slash, prefix = str(value).removeprefix("s3://").partition("/")
        if not (str(value).startswith("s3://") and profile and slash):
            self.fail("write s3://PROFILE/PREFIX with the name of a bucket profile", param, ctx)
        return _Place(profile, prefix)


_is_principal = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:(user|role)/[!-~]+").fullmatch


def _check_principals(
    _context: click.Context, _param: click.Parameter, arns: Sequence[str]
) -> Sequence[str]:
    for arn in arns:
        if not _is_principal(arn):
            raise click.BadParameter(
                "a user or role is given by its full ARN, like"
                " arn:aws:iam::111122223333:role/valetkey-worker"
            )
    return arns


def _check_principal(context: click.Context, param: click.Parameter, arn: str | None) -> str | None:
    _check_principals(context, param, [arn] if arn else [])
    return arn


def _check_networks(
    _context: click.Context, _param: click.Parameter, networks: Sequence[str]
) -> Sequence[str]:
    for network in networks:
        try:
            ip_network(network)
        except ValueError as error:
            raise click.BadParameter(f"a network is like 203.0.113.0/24: {error}") from None
    return networks


def _check_origins(
    _context: click.Context, _param: click.Parameter, origins: Sequence[str]
) -> Sequence[str]:
    for origin in origins:
        if origin != "*" and not _is_origin(origin):
            raise click.BadParameter(
                "an origin is a scheme, a host and an optional port, like https://app.example.com"
                ' without a path; "*" is every page'
            )
    return origins


_is_origin = re.compile(r"https?://[A-Za-z0-9.*-]+(:[0-9]{1,5})?").fullmatch


_common_options = add_options(
    click.option(
        "--file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"The tenants file.  [default: {_DEFAULT_FILE}]",
    ),
    click.option("--profile", "names", multiple=True, help="Only this bucket profile."),
    format_option("--json", "Print one JSON object with the documents alone, by name."),
    format_option("--terraform", "Print resources of Terraform's provider for AWS."),
)


@click.group()
def permissions() -> None:
    """Print what AWS must allow the service, and how it can limit it.

    The documents follow from the tenants file and the settings: the least that their features need.
    By default, they are printed with commands of AWS' command line, which change nothing until you
    run them, and with the reason of each statement. docs/reference/permissions.md has all features.
    """


@permissions.command()
@_common_options
@click.option(
    "--with",
    "extras",
    type=click.Choice(["revoke", "end-sessions", "live"]),
    multiple=True,
    help="Also allow `revoke`, `revoke --end-sessions`, or `doctor --live`.",
)
@click.option("--logs", type=_S3Place(), multiple=True, help="Also allow `uses import` from there.")
@click.option("--export", type=_S3Place(), multiple=True, help="Also allow `audit export` there.")
@click.option(
    "--worker",
    "worker_arn",
    metavar="ARN",
    callback=_check_principal,
    help="The user or role of the workers, for the trust policies of roles that sign.",
)
def iam(  # noqa: PLR0913 - the command's options
    *,
    file: Path | None,
    names: tuple[str, ...],
    extras: tuple[Option, ...],
    logs: tuple[_Place, ...],
    export: tuple[_Place, ...],
    worker_arn: str | None,
    output_format: str | None,
) -> None:
    """Print the least IAM policies of the credentials that sign, and of the workers.

    What an operator's commands need is left out unless it is named: --with revoke lets the service
    change the bucket's policy.

    \b
    Examples:
      python -m worker permissions iam --file examples/tenants.toml
      python -m worker permissions iam --with revoke --logs s3://logs/acme-reports/ --terraform
    """
    config = _read_file(file)
    options: defaultdict[str, dict[Option, tuple[str, ...]]] = defaultdict(dict)
    for extra in extras:
        for name in config.buckets:
            options[name][extra] = (DOCTOR_PREFIX if extra == "live" else "",)
    command_places: dict[Option, tuple[_Place, ...]] = {"logs": logs, "export": export}
    for option, places in command_places.items():
        _check_profiles([place.profile for place in places], config)
        for place in places:
            known = options[place.profile].get(option, ())
            options[place.profile][option] = (*known, place.prefix)
    uses = _uses(config, names, options)
    notes = [*_iam_notes(uses, worker_arn), *_left_out(extras, logs, export)]
    _print(list(iam_documents(filter(_takes_policies, uses), worker_arn)), notes, output_format)


@permissions.command()
@_common_options
def bucket(*, file: Path | None, names: tuple[str, ...], output_format: str | None) -> None:
    """Print the policy of each bucket.

    It denies plain HTTP, the old version of signatures, and signatures that are older than the
    longest lifetime that a policy allows.

    \b
    Example:
      python -m worker permissions bucket --file examples/tenants.toml
    """
    uses = _ordinary(_uses(_read_file(file), names))
    _print([bucket_policy(use) for use in uses], _BUCKET_NOTES, output_format)


@permissions.command()
@_common_options
@click.option(
    "--origin",
    "origins",
    multiple=True,
    callback=_check_origins,
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
    documents = []
    for use in _ordinary(_uses(_read_file(file), names)):
        allowed = origins or cors_origins(use.policies)
        if not allowed:
            text = f"no policy of {use.bucket.name} has redirects: name the page by --origin"
            raise click.UsageError(text)
        if use.policies:
            documents.append(cors_rules(use, allowed))
    _print(documents, _CORS_NOTES, output_format)


@permissions.command()
@_common_options
def lifecycle(*, file: Path | None, names: tuple[str, ...], output_format: str | None) -> None:
    """Print the lifecycle rules that abort multipart uploads which nobody completed.

    \b
    Example:
      python -m worker permissions lifecycle --file examples/tenants.toml
    """
    uses = _ordinary(_uses(_read_file(file), names))
    documents = [document for use in uses if (document := lifecycle_rules(use))]
    _print(documents, _LIFECYCLE_NOTES, output_format)


@permissions.command("guardrails")
@_common_options
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
    callback=_check_principals,
    help="A user or role that may presign, beside the roles in the file.",
)
@click.option(
    "--network",
    "networks",
    metavar="CIDR",
    multiple=True,
    callback=_check_networks,
    help="A network from which links and forms may be used; unset: from everywhere.",
)
@click.option(
    "--vpc", "vpcs", metavar="ID", multiple=True, help="A VPC from which they may be used."
)
def guardrails_command(  # noqa: PLR0913 - the command's options
    *,
    file: Path | None,
    names: tuple[str, ...],
    attachment: Attachment,
    principals: tuple[str, ...],
    networks: tuple[str, ...],
    vpcs: tuple[str, ...],
    output_format: str | None,
) -> None:
    """Print AWS' guardrails for presigned requests, as a policy of an organization.

    They leave room for the longest lifetime in the file. Whoever presigns is limited if all bucket
    profiles have a role, or --principal names the others.

    \b
    Examples:
      python -m worker permissions guardrails --file examples/tenants.toml
      python -m worker permissions guardrails --as scp --network 203.0.113.0/24
    """
    uses = _uses(_read_file(file), names)
    roles = sorted({use.bucket.role_arn for use in uses if use.bucket.role_arn})
    has_role = all(use.bucket.role_arn for use in uses)
    signers = (*roles, *principals) if has_role or principals else ()
    notes: tuple[str, ...] = _GUARDRAIL_NOTES
    if not signers:
        open_text = (
            "Anybody may presign: a bucket profile has no role_arn, and --principal is not given."
        )
        notes = (open_text, *notes)
    document = guardrails(uses, attachment, Limits(signers, networks, vpcs))
    _print([document], notes, output_format)


def _read_file(file: Path | None) -> TenantConfig:
    if file is None and not _DEFAULT_FILE.exists():
        raise click.UsageError(f"there is no {_DEFAULT_FILE} here: name the tenants file by --file")
    return read_config(file or _DEFAULT_FILE)


def _uses(
    config: TenantConfig,
    names: Sequence[str],
    options: Mapping[str, Mapping[Option, tuple[str, ...]]] | None = None,
) -> list[ProfileUse]:
    """Return the use of the bucket profiles with these names, or of all."""
    _check_profiles(names, config)
    uses = profile_uses(config, checkpoint_prefixes(Settings()), options or {})
    return [use for use in uses if not names or use.bucket.name in names]


def _check_profiles(names: Iterable[str], config: TenantConfig) -> None:
    for name in names:
        if name not in config.buckets:
            hint = did_you_mean(name, config.buckets)
            raise click.UsageError(f"there is no bucket profile {name!r}{hint}")


def _takes_policies(use: ProfileUse) -> bool:
    return use.bucket.provider != "r2"


def _ordinary(uses: Iterable[ProfileUse]) -> list[ProfileUse]:
    """Return the uses of buckets that have documents of their own."""
    return [use for use in uses if is_ordinary_bucket(use.bucket.bucket) and _takes_policies(use)]


_NOT_ON_AWS = "No document was tried on AWS."
_BUCKET_NOTES = (
    "It replaces the bucket's policy. While a revocation is in force, add the statements to it.",
    "Tried on SeaweedFS: it enforces TlsOnly, and lets old signatures pass.",
    _NOT_ON_AWS,
)
_CORS_NOTES = ("Tried on SeaweedFS, with the preflight of a browser.", _NOT_ON_AWS)
_LIFECYCLE_NOTES = ("SeaweedFS takes the rules. Nobody waited for their effect.", _NOT_ON_AWS)
_GUARDRAIL_NOTES = (
    "Attach the policy to one organizational unit first, and look for refusals in CloudTrail.",
    "Checked against the grammar of AWS only: no server of the tests has these policies.",
    _NOT_ON_AWS,
)


def _iam_notes(uses: Sequence[ProfileUse], worker_arn: str | None) -> Iterator[str]:
    for use in uses:
        bucket = use.bucket
        if not _takes_policies(use):
            yield (
                f"{bucket.name} is on R2, which has no IAM: create an API token for the bucket with"
                " the permission Object Read & Write."
            )
        elif bucket.provider == "other":
            yield f"{bucket.name} is not on AWS: its server may not know all of these actions."
        elif not is_ordinary_bucket(bucket.bucket):
            yield f"{bucket.name}: policies of access points and directory buckets were not tried."
    if worker_arn is None and any(use.bucket.role_arn for use in uses):
        yield "Add --worker ARN, the workers' user or role, for the trust policy of each role."
    yield (
        "Proven with moto's IAM: the service's own calls work with these actions and resources, and"
        " without any one action some call is refused. Not proven: what presigned requests may do,"
        " conditions, KMS, and the session policies of roles."
    )
    yield _NOT_ON_AWS


def _left_out(
    extras: Sequence[Option], logs: Sequence[_Place], export: Sequence[_Place]
) -> list[str]:
    """Return the line that names the features which the policies do not allow."""
    options = [
        f"--with {name}" for name in ("revoke", "end-sessions", "live") if name not in extras
    ]
    options += ["--logs" for _ in "x" if not logs] + ["--export" for _ in "x" if not export]
    return [f"Not allowed, as nothing asked for it: {', '.join(options)}."] if options else []


def _print(documents: Sequence[Document], notes: Iterable[str], output_format: str | None) -> None:
    if output_format == "json":
        click.echo(format_json(documents))
    elif output_format == "terraform":
        click.echo(format_terraform(documents, notes), nl=False)
    else:
        click.echo(format_shell(documents, notes), nl=False)
