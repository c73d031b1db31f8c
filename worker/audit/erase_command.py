"""The commands `audit erase` and `audit erasures`."""

import json
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import click
from sqlalchemy import Connection, select

from models import Erasure
from valetkey.wire.chunking import uuid7
from worker import clock
from worker.audit.erasure import (
    ErasedRow,
    ErasureAuthor,
    ErasureTarget,
    FoundText,
    count_open,
    erase_texts,
    find_rows,
    find_texts,
    may_erase,
    read_erased,
)
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli.command_options import TEXT, parse_cursor, tenant_option
from worker.cli.database import check_tenant_option, open_database, operator_account
from worker.cli.output import first_page_options, print_list, print_rows

_MAX_REASON = 200
_COLUMNS = ("tenant", "table", "rows", "texts")


def _parse_reason(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> str | None:
    if text is not None and not (0 < len(text) <= _MAX_REASON and text.isprintable()):
        raise click.BadParameter(f"write 1 to {_MAX_REASON} characters on one line")
    return text


@click.command("erase")
@click.option("--recipient", type=TEXT, metavar="NAME", help="Texts of grants for this recipient.")
@click.option(
    "--requested-by", type=TEXT, metavar="NAME", help="Texts of requests by this requester."
)
@click.option("--grant", callback=parse_cursor, metavar="GRANT", help="Texts of one grant.")
@click.option(
    "--from",
    "file",
    type=click.File("r", encoding="utf-8"),
    help="Erase again what `audit erasures --export` wrote, in a restored backup.",
)
@tenant_option
@click.option(
    "--reason",
    callback=_parse_reason,
    metavar="TEXT",
    help=f"Why, for the audit log; {_MAX_REASON} characters at most.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be erased, and erase nothing.")
@click.option(
    "--yes",
    "expected",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Do not ask: erase if there are at most COUNT texts.",
)
def erase(
    *, file: IO[str] | None, reason: str | None, dry_run: bool, expected: int | None, **target: Any
) -> None:
    """Erase recipients, requesters, reasons and references from the audit log, for ever.

    Names are compared without regard to the case of A to Z. Erasing a recipient also erases the
    reason and the reference of the same items, and erasing a requester the reason. Everything else
    about the grants stays. `audit verify` still verifies: the log has a commitment to each text. It
    records how many texts were erased, when, by whom and why, and nothing of what they were. Grants
    that were issued again for --grant are erased as well. Chunks of a batch that arrive after one
    of its texts was erased are refused.

    Object keys, addresses in uses, and backups are not changed. After a backup was restored, give
    --from what `audit erasures --export` wrote before.

    \b
    Examples:
      python -m worker audit erase --recipient ann@example.com --dry-run
      python -m worker audit erase --recipient ann@example.com --reason "case 4711" --yes 12

    Exits with 1 if nothing matches, or more than COUNT.
    """
    named = [name for name in ("recipient", "requested_by", "grant") if target[name] is not None]
    if len(named) + (file is not None) != 1:
        raise click.UsageError("give one of --recipient, --requested-by, --grant and --from")
    search = _Search(ErasureTarget(**target), None if file is None else list(_parse_rows(file)))
    # Nobody waits for the operator's answer: the second transaction searches again.
    with open_database(read_transaction, refuses_later=True) as connection:
        check_tenant_option(connection, target["tenant"])
        found = search.find(connection)
        _print_rows(found, count_open(connection, found))
    if dry_run:
        click.echo("Nothing was erased: this was a dry run.")
        return
    limit = _confirm(_count(found), expected)
    with open_database(write_transaction, refuses_later=True) as connection:
        found = search.find(connection, locks=True)
        _refuse_more(_count(found), limit)
        erased = _erase(connection, found, reason)
    click.echo(f"Erased {erased:,} texts.")


class _Search(NamedTuple):
    """The texts to erase: those of a target, or those that a file names."""

    target: ErasureTarget
    rows: list[ErasedRow] | None

    def find(self, connection: Connection, *, locks: bool = False) -> list[FoundText]:
        """Return the texts. Raises click.ClickException."""
        if not may_erase(connection):
            text = "Only the owner of the tables can erase: name its user in VALETKEY_DATABASE_URL."
            raise click.ClickException(text)
        if self.rows is not None:
            found = find_rows(connection, self.rows, self.target.tenant, locks=locks)
        else:
            found = find_texts(connection, self.target, locks=locks)
        if self.target.grant is not None and len({each.tenant for each in found}) > 1:
            text = "several tenants have this grant: name one, as in TENANT/BATCH.NUMBER"
            raise click.BadParameter(text, param_hint="--grant")
        if not found:
            raise click.ClickException("No text matches, or it was erased before.")
        return found


def _count(found: Iterable[FoundText]) -> int:
    return sum(len(each.columns) for each in found)


def _erase(connection: Connection, found: Sequence[FoundText], reason: str | None) -> int:
    now = clock.now()
    if connection.dialect.name == "sqlite":  # which else leaves the bytes in free pages
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    erasure_id = uuid7(int(now.timestamp() * 1000), secrets.token_bytes(10))
    author = ErasureAuthor(operator_account(), reason, now)
    return erase_texts(connection, found, author, erasure_id)


def _print_rows(found: Iterable[FoundText], open_batches: int) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    texts: Counter[tuple[str, str]] = Counter()
    for each in found:
        place = each.tenant, each.table.name
        counts[place] += 1
        texts[place] += len(each.columns)
    shown = [(*place, f"{counts[place]:,}", f"{texts[place]:,}") for place in sorted(counts)]
    print_rows(_COLUMNS, shown, None)
    if open_batches:
        text = "batches are still open: their chunks that have not arrived yet will be refused."
        click.echo(f"{open_batches:,} of these {text}", err=True)


def _confirm(texts: int, expected: int | None) -> int:
    """Return the largest number of texts that the operator wants to erase.

    Raises click.ClickException or click.Abort if these are too many.
    """
    if expected is not None:
        _refuse_more(texts, expected)
        return expected
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"There is no terminal to confirm this on: give --yes {texts} to erase them."
        )
    click.confirm(f"Erase {texts:,} texts for ever?", abort=True, err=True)
    return texts


def _refuse_more(texts: int, limit: int) -> None:
    if texts > limit:
        raise click.ClickException(
            f"{texts:,} texts match, more than {limit:,}. Nothing was erased."
        )


def _parse_rows(file: IO[str]) -> Iterator[ErasedRow]:
    for number, line in enumerate(file, 1):
        try:
            yield ErasedRow.parse(line)
        except (ValueError, TypeError):
            text = f"line {number} is not one that `audit erasures --export` wrote"
            raise click.BadParameter(text, param_hint="--from") from None


@click.command("erasures")
@click.option(
    "--export", is_flag=True, help="Print the erased rows instead, for `erase --from` in a backup."
)
@first_page_options
def list_erasures(*, export: bool, **options: Any) -> None:
    """List erasures of texts, newest first, with who erased how many and why.

    --export prints one JSON object for each row of the log whose texts were erased, whatever
    --limit and --since are. It has no text, and says where texts have to be erased again after a
    backup was restored.

    \b
    Examples:
      python -m worker audit erasures --tenant acme
      python -m worker audit erasures --export > erased.jsonl
    """
    if not export:
        query = select(
            *(Erasure.erased_at.label("at"), Erasure.tenant, Erasure.erased_by, Erasure.reason),
            *(Erasure.texts, Erasure.erasure_id.label("erasure")),
        )
        print_list(query.order_by(Erasure.erased_at.desc(), Erasure.tenant), options)
        return
    with open_database(read_transaction) as connection:
        check_tenant_option(connection, options["tenant"])
        for row in read_erased(connection, options["tenant"]):
            click.echo(json.dumps(row._asdict()))
