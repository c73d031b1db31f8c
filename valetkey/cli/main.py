import click

from valetkey.cli.command_group import CommandGroup
from valetkey.cli.commands.cancel import cancel
from valetkey.cli.commands.download import download
from valetkey.cli.commands.init import init
from valetkey.cli.commands.issued.reissue import reissue
from valetkey.cli.commands.issued.status import status
from valetkey.cli.commands.keygen import keygen
from valetkey.cli.commands.multipart import multipart
from valetkey.cli.commands.presign import presign
from valetkey.cli.commands.put import put
from valetkey.cli.commands.service import service
from valetkey.cli.commands.upload import upload
from valetkey.cli.commands.usage import usage
from valetkey.wire.messages import RELEASE


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(RELEASE, prog_name="valetkey")  # an image has no metadata of packages
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
      130  interrupted
    """


_REQUESTS = (presign, download, upload, put, multipart)
for command in (*_REQUESTS, status, reissue, cancel, usage, service, keygen, init):
    main.add_command(command)
