import click

from valetkey.cli.commands.cancel import cancel
from valetkey.cli.commands.download import download
from valetkey.cli.commands.keygen import keygen
from valetkey.cli.commands.multipart import multipart
from valetkey.cli.commands.put import put
from valetkey.cli.commands.upload import upload
from valetkey.cli.commands.usage import usage


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="valetkey", prog_name="valetkey")
def main() -> None:
    """Ask for temporary S3 permissions: links to download, forms and PUTs to upload.

    \b
    valetkey download reports 2026/11/u-1.pdf
    valetkey download reports --from keys.csv --out links.csv
    valetkey upload inbox photos/cat.jpg --max-size 5MB --curl
    valetkey put inbox photos/cat.jpg --file cat.jpg --curl
    valetkey multipart inbox films/cat.mp4 --file cat.mp4
    valetkey download reports 2026/11/u-1.pdf --dry-run
    valetkey usage

    A service started with `python -m worker dev` in this folder is found by itself; for any
    other, set VALETKEY_BROKER_URL and VALETKEY_KEY_FILE; `valetkey keygen` makes a key. A tenant
    that trusts its queue needs none: set VALETKEY_TENANT.

    Exit codes: 0 all issued, 1 something refused, 2 usage, 3 no answer in time, 4 not stored,
    130 interrupted.
    """


for command in (download, upload, put, multipart, usage, cancel, keygen):
    main.add_command(command)
