"""What a client leaves on disk: how it stands, what it said, and what it received and sent."""

from pathlib import Path
from typing import Any, Literal

from common.audit import AuditLog
from common.errors import BadInput
from common.files import now, write_json
from common.logs import log_to_file

Standing = Literal["connecting", "connected", "working", "finished", "refused", "stopped", "failed"]


class ClientState:
    """Writes ``status.json``, ``audit.jsonl`` and ``client.log`` into a folder, if there is one.

    Args:
        folder: Made if need be; None: nothing is written.
        **always: What belongs into every status.

    Raises:
        BadInput: It cannot be written, or another client uses it.
    """

    def __init__(self, folder: Path | None, **always: str) -> None:
        self._folder = folder
        self._always = always
        self._audit: AuditLog | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._audit = AuditLog(folder / "audit.jsonl")
            log_to_file(folder / "client.log")
        except OSError as error:
            raise BadInput(f"{folder}: {error.strerror}; give --state another folder") from None

    def write_status(self, standing: Standing, **fields: Any) -> None:
        """Replace ``status.json``."""
        if self._folder is not None:
            content = {"state": standing, "time": now(), **self._always, **fields}
            write_json(self._folder / "status.json", content)

    def note(self, event: str, **fields: Any) -> None:
        """Append to the audit log."""
        if self._audit is not None:
            self._audit.write(event, **fields)
