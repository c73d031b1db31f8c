"""The manifest beside an export: what was written, which rows it has, and what their trees were."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, select

from models import TreeHead
from worker import clock
from worker.audit.audit_rows import COLUMNS
from worker.audit.grant_filters import GrantFilter
from worker.export.export_run import (
    Digest,
    ExportedTree,
    ExportResult,
    FormatName,
    Number,
    Output,
)
from worker.ledger.merkle import CONFIG_LOG, RightEdge
from worker.proof.checkpoint_rows import read_last_checkpoint
from worker.proof.verify.tree_check import UnusableFile
from worker.shared.tenant_history import is_of_tenant

SUFFIX = ".manifest.json"
_MAX_BYTES = 32 * 2**20  # a tree takes about 500 of them


def _to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("no database has this time") from None


_Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]
_Text = Annotated[str, Field(pattern="^[^\x00]*$", max_length=4_096)]


class UnusableManifest(UnusableFile):
    """A file has no manifest, or one that `audit export` has not written."""


class ExportManifest(BaseModel):
    """The statement of an export about itself.

    filters are the options as given, since and until the times that they meant, and buckets the
    bucket profiles that they selected. trees are those of all tenants that the export can contain.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    manifest: Literal["valetkey export"] = "valetkey export"
    version: Literal[1] = 1
    written_at: _Moment
    format: FormatName
    columns: tuple[str, ...]
    filters: dict[str, _Text | list[_Text]]
    since: _Moment | None
    until: _Moment | None
    buckets: tuple[_Text, ...]
    decided_before: _Moment
    last_batch_number: Number
    rows: Number
    bytes: Number
    sha256: Digest
    trees: tuple[ExportedTree, ...]

    @property
    def options(self) -> list[tuple[str, str]]:
        """The options of the filters, each with its text."""
        return [
            (option, text)
            for option, texts in self.filters.items()
            for text in ([texts] if isinstance(texts, str) else texts)
        ]


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest of an export to a file."""
    return path.with_name(path.name + SUFFIX)


def read_trees(connection: Connection, grant_filter: GrantFilter) -> tuple[ExportedTree, ...]:
    """Return the trees of the tenants of a filter, without the checkpoints.

    A tree whose head was changed is left out: its rows are evidence, and `audit verify` names it.
    """
    query = select(TreeHead.tenant, TreeHead.size, TreeHead.edge).where(
        TreeHead.tenant != CONFIG_LOG, TreeHead.size > 0
    )
    if grant_filter.tenant is not None:
        query = query.where(is_of_tenant(connection, TreeHead.tenant, grant_filter.tenant))
    trees = []
    for tenant, size, edge in connection.execute(query.order_by(TreeHead.tenant)):
        with suppress(TypeError, ValueError):
            root = RightEdge.from_bytes(size, edge).root().hex()
            trees.append(ExportedTree(tenant=tenant, size=size, root=root, checkpoint=None))
    return tuple(trees)


def make_manifest(
    connection: Connection, output: Output, result: ExportResult, filters: dict[str, Any]
) -> bytes:
    """Return the manifest of an export whose rows are written."""
    trees = []
    for tree in output.journal.trees:
        newest = read_last_checkpoint(connection, tree.tenant)
        trees.append(tree.model_copy(update={"checkpoint": newest and newest.note}))
    manifest = ExportManifest(
        written_at=clock.now(),
        format=output.format_name,
        columns=COLUMNS,
        filters=filters,
        since=output.grant_filter.since,
        until=output.grant_filter.until,
        buckets=output.grant_filter.buckets,
        decided_before=result.bound.decided_before,
        last_batch_number=result.bound.batch_number,
        rows=result.rows,
        bytes=result.bytes,
        sha256=result.sha256,
        trees=tuple(trees),
    )
    return f"{manifest.model_dump_json(indent=2)}\n".encode()


def read_manifest(path: Path) -> ExportManifest:
    """Read the manifest beside an export. Raises UnusableManifest."""
    manifest = manifest_path(path)
    if not path.is_file():
        raise UnusableManifest(f"{path} is no regular file, so it has no manifest")
    try:
        if not manifest.is_file():
            raise UnusableManifest(f"there is no file {manifest}: `audit export` writes it")
        with manifest.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UnusableManifest(f"{manifest}: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise UnusableManifest(f"{manifest} is too large for a manifest: name an export")
    try:
        result = ExportManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        text = f"{manifest} is no manifest of an export, or was changed: {place}: {first['msg']}"
        raise UnusableManifest(text) from None
    if result.columns != COLUMNS:
        text = f"{manifest} is of a release with other columns: verify it with that release"
        raise UnusableManifest(text)
    return result
