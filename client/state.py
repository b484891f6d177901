"""What a client leaves on disk: how it stands, what it said, and what it received and sent."""

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from client.counted import CountedScores
from client.progress import Phase
from common.audit import AuditLog
from common.errors import BadInput
from common.runtime.files import remedy
from common.runtime.logs import log_to_file
from common.runtime.status import Status, StatusFile

log = logging.getLogger(__name__)

Standing = Literal[
    "connecting", "connected", "working", "waiting", "finished", "refused", "stopped", "failed"
]


class ClientStatus(Status):
    """How a client stands, or how it ended."""

    state: Standing
    device: str | None = Field(None, description="where it computes")
    run: str | None = None
    round: int | None = Field(None, description="the last one that it was asked for")
    phase: Phase | None = Field(None, description="of the work on it")
    share: float | None = Field(None, description="of the phase's batches that are done")
    scored: CountedScores | None = Field(
        None, description="its own scores of the model that it received last"
    )
    until: AwareDatetime | None = Field(
        None, description="if it still works on a round then, it is stuck"
    )


class ClientState:
    """Writes ``status.json``, ``audit.jsonl`` and ``client.log`` into a folder, if there is one.

    Args:
        folder: Made if need be; None: nothing is written.
        device: Where it computes.

    Attributes:
        folder: The folder, if there is one.

    Raises:
        BadInput: It cannot be written, or another client uses it.
    """

    def __init__(self, folder: Path | None, device: str | None = None) -> None:
        self.folder = folder
        self._device = device
        self._audit: AuditLog | None = None
        self._status: StatusFile | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._audit = AuditLog(folder / "audit.jsonl")
            self._status = StatusFile(folder)
            log_to_file(folder / "client.log")
        except OSError as error:
            raise Unwritable(folder, error) from None

    def write_status(self, standing: Standing, **fields: Any) -> None:
        """Replace ``status.json``; nothing once it has ended.

        Args:
            standing: What the client is doing.
            **fields: Of :class:`ClientStatus`.

        Raises:
            Unwritable: It cannot be written.
        """
        if self.folder is None or self._status is None:
            return
        try:
            self._status.write(self._status_of(standing, fields))
        except OSError as error:
            raise Unwritable(self.folder, error) from None

    def note(self, event: str, **fields: Any) -> None:
        """Append to the audit log.

        Raises:
            Unwritable: It cannot be written; what is not on record must not happen.
        """
        if self.folder is None or self._audit is None:
            return
        try:
            self._audit.write(event, **fields)
        except OSError as error:
            raise Unwritable(self.folder, error) from None

    def end(self, standing: Standing, **fields: Any) -> None:
        """Write how it ended, from any thread and on a full disk too; only the first call counts.

        Never raises: what cannot be written is not.
        """
        if self._status is None or not self._status.end(self._status_of(standing, fields)):
            return
        try:
            self.note(standing, **fields)
        except BadInput as error:
            log.error("how it ended could not be noted: %s", error)

    def _status_of(self, standing: Standing, fields: dict[str, Any]) -> ClientStatus:
        device = {} if self._device is None else {"device": self._device}
        return ClientStatus.model_validate({"state": standing, **device, **fields})


class Unwritable(BadInput):
    """A client's ``--state`` cannot be written; what is not on record must not happen.

    Args:
        path: The folder or the file.
        error: Why.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        # In an empty folder a privacy budget would begin anew.
        what = f"{remedy(error)}, or give --state another folder, with all that is in this one"
        super().__init__(f"{path}: {error.strerror}; {what}")
