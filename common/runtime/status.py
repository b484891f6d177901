"""``status.json``: a command's progress, and how it ended, even on a full disk."""

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
    """Base class of a status; only fields that were set are written."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    state: str
    time: str = Field("", description="UTC, ISO 8601; set on writing")
    reason: str | None = Field(None, description="reason for the end")


StatusT = TypeVar("StatusT", bound=Status)


class StatusFile:
    """Writes the status file of one process, from any thread.

    Args:
        folder: Folder of the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = Lock()

    def write(self, status: Status) -> None:
        """Write the process's progress, and reserve disk space for :meth:`end`.

        Does nothing after :meth:`end`.

        Raises:
            OSError: The status cannot be written, or the space cannot be reserved.
        """
        if self._ended.locked():
            return
        keep_reserve(self._folder)
        self._replace(status)

    def end(self, status: Status) -> bool:
        """Write how the process ended; only the first call has an effect.

        Never raises: the process must end in any case.

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
    """Read the status in a folder.

    Raises:
        BadInput: There is no status, or it is damaged.
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
