"""The state of a multipart upload: a file beside the source, from which the upload is resumed."""

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from valetkey.cli.bulk.journal import write_private
from valetkey.cli.bulk.row_errors import InputError
from valetkey.multipart_upload import StoredPart
from valetkey.wire.replies import Grant, MultipartInfo
from valetkey.wire.terms import MAX_PARTS

_SAVE_INTERVAL = 1.0  # seconds: the file of an upload of 10,000 parts has a megabyte
_BLOCK = 1024**2  # bytes read at once
_MAX_BYTES = 2**48  # more than storage takes; a file position that every part has fits into 63 bits


class UploadState(BaseModel):
    """An unfinished upload: its grant's id, the file's state at its start, and the stored parts.

    It contains no link and no signature: the grant is signed again when the upload goes on. request
    has the bucket, the key and the options that must be the same then.
    """

    model_config = ConfigDict(extra="forbid")

    v: Literal[1] = 1
    request: dict[str, Any]
    grant_id: str
    expires_at: AwareDatetime
    size: Annotated[int, Field(ge=0, le=_MAX_BYTES)]
    modified_ns: int
    part_size: Annotated[int, Field(ge=1, le=_MAX_BYTES)]
    parts: dict[Annotated[int, Field(ge=1, le=MAX_PARTS)], StoredPart] = {}

    @property
    def batch_id(self) -> str:
        """The id of the batch that the grant belongs to."""
        return self.grant_id.partition(".")[0]

    @property
    def stored_bytes(self) -> int:
        """The size of the stored parts together."""
        return sum(min(self.part_size, self.size - self._offset(n)) for n in self.parts)

    def find_change(self, source: Path) -> str | None:
        """Return what has changed in the source since the upload began, or None."""
        status = source.stat()
        if status.st_size != self.size:
            return f"had {self.size:,} bytes and has {status.st_size:,} now"
        with source.open("rb") as stream:
            for number, part in sorted(self.parts.items()):
                if self._digest(stream, number) != part.sha256:
                    return f"has changed in part {number}, which is stored already"
        # What is not stored yet has no digest.
        return None if status.st_mtime_ns == self.modified_ns else "was written to"

    def _digest(self, stream: Any, number: int) -> str:
        stream.seek(self._offset(number))
        digest, left = sha256(), self.part_size
        while left and (data := stream.read(min(left, _BLOCK))):
            digest.update(data)
            left -= len(data)
        return digest.hexdigest()

    def _offset(self, number: int) -> int:
        return (number - 1) * self.part_size


class StateFile:
    """The file of one upload's state. add() writes it at most once a second."""

    def __init__(self, source: Path) -> None:
        self.path = source.with_name(f"{source.name}.upload.json")
        self._saved_at = 0.0

    def check_writable(self) -> None:
        """Raise InputError if the file cannot be written, before anything is requested."""
        folder = self.path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"--keep writes {self.path}, but the folder {folder} is not writable")

    def load(self) -> UploadState | None:
        """Return the state, or None if there is none. Raises InputError if it cannot be read."""
        try:
            return UploadState.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise InputError(
                f"{self.path} is not the state of an unfinished upload: remove it to start anew"
            ) from None

    def start(
        self, request: dict[str, Any], source: Path, grant: Grant, info: MultipartInfo
    ) -> UploadState:
        """Save and return the state of an upload that begins. Raises OSError."""
        status = source.stat()
        state = UploadState(
            request=request,
            grant_id=grant.id,
            expires_at=grant.expires_at,
            size=status.st_size,
            modified_ns=status.st_mtime_ns,
            part_size=info.part_size,
        )
        self.save(state)
        return state

    def add(self, state: UploadState, number: int, part: StoredPart) -> None:
        """Add a stored part to the state."""
        state.parts[number] = part
        if time.monotonic() >= self._saved_at + _SAVE_INTERVAL:
            self.save(state)

    def save(self, state: UploadState) -> None:
        """Write the file atomically, readable by its owner only. Raises OSError."""
        write_private(self.path, state.model_dump_json() + "\n")
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
