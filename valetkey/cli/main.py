import click

from valetkey.cli.commands.cancel import cancel
from valetkey.cli.commands.download import download
from valetkey.cli.commands.keygen import keygen
from valetkey.cli.commands.multipart import multipart
from valetkey.cli.commands.put import put
from valetkey.cli.commands.service import service
from valetkey.cli.commands.upload import upload
from valetkey.cli.commands.usage import usage
from valetkey.wire.messages import RELEASE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(RELEASE, prog_name="valetkey")  # an image has no metadata of packages
def main() -> None:
    """Request temporary S3 permissions: download links, upload forms and PUTs.

    \b
    valetkey download reports 2026/11/u-1.pdf
    valetkey download reports --from keys.csv --out links.csv
    valetkey upload inbox photos/cat.jpg --max-size 5MB --curl
    valetkey put inbox photos/cat.jpg --file cat.jpg --curl
    valetkey multipart inbox films/cat.mp4 --file cat.mp4
    valetkey download reports 2026/11/u-1.pdf --dry-run
    valetkey usage
    valetkey service

    The command finds a service that `python -m worker dev` started in this folder or a parent
    folder. For any other service, set VALETKEY_BROKER_URL and VALETKEY_KEY_FILE; `valetkey keygen`
    creates a key. If the tenant accepts unsigned messages, set VALETKEY_TENANT instead of a key.

    \b
    Exit codes:
      0    everything was granted
      1    the request or an item was refused
      2    wrong usage, configuration or input file
      3    no response in time, or none that this release can read
      4    an object was not stored
      130  interrupted
    """


for command in (download, upload, put, multipart, usage, service, cancel, keygen):
    main.add_command(command)
