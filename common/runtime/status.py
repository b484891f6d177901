"""``status.json``: how a command stands, and how it ended, on a full disk too."""

import logging
from pathlib import Path
from threading import Lock
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import BadInput, first_problem
from common.runtime.files import give_up_reserve, keep_reserve, now, write_json

log = logging.getLogger(__name__)

STATUS = "status.json"


class Status(BaseModel):
    """Base of what a status says; a field that was not given is not written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    state: str
    time: str = Field("", description="UTC, ISO 8601; set when it is written")
    reason: str | None = Field(None, description="why it ended so")


StatusT = TypeVar("StatusT", bound=Status)


class StatusFile:
    """Replaces the status of one process, from any thread.

    Args:
        folder: Where the file is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = Lock()

    def write(self, status: Status) -> None:
        """Write how the process stands, and keep room for :meth:`end`; nothing once it has ended.

        Raises:
            OSError: It cannot be written, or there is no room for the end.
        """
        if self._ended.locked():
            return
        keep_reserve(self._folder)
        self._replace(status)

    def end(self, status: Status) -> bool:
        """Write how the process ended; only the first call counts.

        Never raises: the process has to end all the same.

        Returns:
            Whether this was the first call.
        """
        if not self._ended.acquire(blocking=False):
            return False
        try:
            give_up_reserve(self._folder)
            self._replace(status)
        except OSError as error:
            log.error("%s could not be written: %s", STATUS, error.strerror)
        return True

    def _replace(self, status: Status) -> None:
        timed = status.model_copy(update={"time": now()})
        write_json(self._folder / STATUS, timed.model_dump(mode="json", exclude_unset=True))


def read_status(folder: Path, model: type[StatusT]) -> StatusT:
    """Return the status in a folder.

    Raises:
        BadInput: There is none, or it is damaged.
    """
    file = folder / STATUS
    try:
        return model.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BadInput(
            f"{file}: {error.strerror}; name the folder of a run that was started"
        ) from None
    except ValidationError as error:
        raise BadInput(f"{file}: {first_problem(error)}; restore it from a backup") from None
