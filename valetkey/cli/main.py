"""The command line of a producer: `valetkey`."""

import click

from valetkey.cli.command_groups import CommandGroup, LazyGroup
from valetkey.wire import RELEASE

_COMMANDS = {
    "cancel": "issued_commands:cancel",
    "download": "grant_commands:download",
    "init": "setup_commands:init",
    "keygen": "setup_commands:keygen",
    "multipart": "multipart_command:multipart",
    "presign": "grant_commands:presign",
    "put": "grant_commands:put",
    "reissue": "issued_commands:reissue",
    "service": "query_commands:service",
    "status": "query_commands:status",
    "upload": "grant_commands:upload",
    "usage": "query_commands:usage",
    "webhooks": "webhook_commands:webhooks",
}


class _Commands(CommandGroup, LazyGroup):
    """Commands that are imported when they run, under a root that reports a broken output."""


@click.group(
    cls=_Commands,
    package="valetkey.cli.commands",
    lazy_commands=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(RELEASE, prog_name="valetkey")
def main() -> None:
    """Request temporary S3 permissions: download links, upload forms and PUTs.

    \b
    valetkey presign s3://reports/2026/11/u-1.pdf
    valetkey download reports 2026/11/u-1.pdf
    valetkey download reports --from keys.csv --out links.csv
    valetkey upload inbox photos/cat.jpg --max-size 5MB --curl
    valetkey put inbox photos/cat.jpg --file cat.jpg --curl
    valetkey multipart inbox films/cat.mp4 --file cat.mp4
    valetkey download reports 2026/11/u-1.pdf --dry-run
    valetkey status 0199a000-0000-7000-8000-000000000000.0
    valetkey usage
    valetkey service
    valetkey webhooks listen --forward-to http://127.0.0.1:3000/hook

    An object is named as BUCKET KEY, or as s3://BUCKET/KEY. BUCKET is the name of a bucket profile,
    which the service's operator chose: the bucket in storage may have another name.

    The command finds a service that `python -m worker dev` started in this folder or a parent
    folder. For any other service, set VALETKEY_BROKER_URL. `valetkey init` writes a tenants file,
    and a key that needs no setting; for a key of `valetkey keygen`, set VALETKEY_KEY_FILE. If the
    tenant accepts unsigned messages, set VALETKEY_TENANT instead of a key.

    \b
    Exit codes:
      0    everything was granted
      1    the request or an item was refused
      2    wrong usage, configuration or input file
      3    no response in time, or none that this release can read
      4    an object was not stored
      5    the output could not be written
      6    a grant of the output has expired, or has too little time left (see --min-left)
      130  interrupted
    """
