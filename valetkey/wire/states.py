"""How far what was asked for has come, as the service tells whoever asks. Version 1 of the wire."""

from typing import Annotated, Literal

from pydantic import Field

from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import Kind, WireModel


class ManifestState(WireModel):
    """How far the manifest of a batch has come; issued and refused count its lines.

    bytes and sha256 (in hex) are of the file as it is stored. problem is why it is not written:
    for good where the state is failed, else it is tried again.
    """

    key: str
    state: Literal["pending", "written", "failed"]
    issued: int = 0
    refused: int = 0
    bytes: int | None = None
    sha256: str | None = None
    problem: str | None = None


class BatchState(WireModel):
    """How far a batch has come: chunks decided, and of their items those granted and refused.

    refusal is what chunks that are not decided yet will get, where that is known.
    """

    status: Literal["found"] = "found"
    batch: str
    kind: Kind
    bucket: str
    total: int
    chunk_size: int
    decided: int
    issued: int
    refused: int
    cancelled: bool = False
    refusal: Annotated[Refusal, Field(strict=False)] | None = None
    manifest: ManifestState | None = None
