"""What a client leaves on disk: how it stands, what it said, and what it received and sent."""

import logging
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from common.audit import AuditLog
from common.errors import BadInput
from common.runtime.files import give_up_reserve, keep_reserve, now, remedy, write_json
from common.runtime.logs import log_to_file

log = logging.getLogger(__name__)

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
        self._ending = Lock()
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._audit = AuditLog(folder / "audit.jsonl")
            log_to_file(folder / "client.log")
        except OSError as error:
            raise _unwritable(folder, error) from None

    def write_status(self, standing: Standing, **fields: Any) -> None:
        """Replace ``status.json``, and see that :meth:`end`, which is final, will have room.

        Raises:
            BadInput: It cannot be written.
        """
        if self._folder is None or self._ending.locked():
            return
        try:
            keep_reserve(self._folder)
            self._replace_status(self._folder, standing, fields)
        except OSError as error:
            raise _unwritable(self._folder, error) from None

    def note(self, event: str, **fields: Any) -> None:
        """Append to the audit log.

        Raises:
            BadInput: It cannot be written; what is not on record must not happen.
        """
        if self._folder is None or self._audit is None:
            return
        try:
            self._audit.write(event, **fields)
        except OSError as error:
            raise _unwritable(self._folder, error) from None

    def end(self, standing: Standing, **fields: Any) -> None:
        """Write how it ended, from any thread and on a full disk too; only the first call counts.

        Never raises: what cannot be written is not.
        """
        if self._folder is None or not self._ending.acquire(blocking=False):
            return
        try:
            give_up_reserve(self._folder)
            self._replace_status(self._folder, standing, fields)
            self.note(standing, **fields)
        except (OSError, BadInput) as error:
            log.error("how it ended could not be written: %s", error)

    def _replace_status(self, folder: Path, standing: Standing, fields: dict[str, Any]) -> None:
        content = {"state": standing, "time": now(), **self._always, **fields}
        write_json(folder / "status.json", content)


def _unwritable(folder: Path, error: OSError) -> BadInput:
    what = f"{remedy(error)}, or give --state another folder"
    return BadInput(f"{folder}: {error.strerror}; {what}")
