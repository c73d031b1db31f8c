"""Prints the contract with producers: JSON Schemas, an AsyncAPI document and the refusal codes."""

from pathlib import Path

import click

from worker.contract.contract_files import FILES, contract_files

_FILE_BY_FORMAT = {name.partition(".")[0]: name for name in FILES}


@click.command()
@click.argument(
    "document", type=click.Choice(sorted(_FILE_BY_FORMAT)), required=False, metavar="[DOCUMENT]"
)
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False),
    help="Write all documents to this folder instead, each to its own file.",
)
def contract(document: str | None, folder: str | None) -> None:
    """Print one DOCUMENT of the contract between producers and the service.

    \b
    asyncapi   AsyncAPI 3.0: queues, results and webhooks, with all messages
    requests   JSON Schema 2020-12 of the requests, without any further fields
    replies    JSON Schema of the replies and webhooks, which may get further fields
    envelope   JSON Schema of what a producer pushes to a queue in Redis
    result     JSON Schema of what the service stores for a request in Redis
    codes      the codes of refusals and their meanings, in Markdown

    All of it is generated from the code of this release, and reads no setting. docs/contract.md
    explains it and has a producer in one page. In a signed request, the schema of the requests
    applies to the content without its member iat.

    \b
    Examples:
      python -m worker contract requests > requests.schema.json
      python -m worker contract --out docs/contract
    """
    if (document is None) == (folder is None):
        raise click.UsageError("name one document, or give --out to write all of them.")
    if folder == "":  # as from an unset variable; Path would take it for the current folder
        raise click.BadParameter("the folder has no name", param_hint="--out")
    if document is not None:
        click.echo(FILES[_FILE_BY_FORMAT[document]](), nl=False)
    if folder is not None:
        _write_files(Path(folder))


def _write_files(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contract_files().items():
            path = folder / name
            path.write_text(text, encoding="utf-8", newline="\n")
            click.echo(path)
    except OSError as error:
        path = error.filename or folder
        raise click.ClickException(f"{path} cannot be written: {error.strerror}.") from None
