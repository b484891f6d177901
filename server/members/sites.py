"""``sites.json``: which hospitals may take part, each with the certificate that it is known by.

``flower-provision`` writes the file. The server reads it, and reads it again when it has changed:
a hospital that is revoked is refused without a restart.
"""

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Annotated, BinaryIO, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from common.certificates import expiry_notice
from common.errors import BadInput, first_problem
from common.message import Sha256
from common.net import SiteName
from common.runtime.files import remedy, write_whole

log = logging.getLogger(__name__)


Time = Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]
"""A time with its zone, turned into UTC."""


class Site(BaseModel):
    """What the server knows of a hospital before it connects."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Sha256 = Field(description="its fingerprint, see common.certificates")
    added: Time
    expires: Time = Field(description="the certificate's end")
    revoked: Time | None = Field(None, description="since when it may not take part")


class _File(BaseModel):
    """The content of ``sites.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = Field(description="of this format")
    sites: dict[SiteName, Site]


def read_sites(path: Path) -> dict[str, Site]:
    """Read a list of hospitals.

    Raises:
        BadInput: It cannot be read, or is no such list; names the first thing wrong with it.
    """
    try:
        return _File.model_validate_json(path.read_bytes()).sites
    except OSError as error:
        what = remedy(
            error, "restore it from a copy, or from the folder server of flower-provision"
        )
        raise BadInput(f"{path}: cannot be read: {error.strerror}; {what}") from None
    except ValidationError as error:
        what = "restore it from a copy"
        if any(problem["loc"] == ("version",) for problem in error.errors()):
            what = "make the federation with this version's flower-provision new"
        raise BadInput(f"{path}: not a list of hospitals: {first_problem(error)}; {what}") from None


def write_sites(path: Path, sites: dict[str, Site]) -> None:
    """Write a list of hospitals, sorted by name; a reader sees the old one or the new one.

    Raises:
        OSError: The file cannot be written.
    """
    content = _File(version=2, sites=dict(sorted(sites.items())))
    text = content.model_dump_json(indent=2) + "\n"

    def write(file: BinaryIO) -> None:
        # Whatever the umask: the server may be another user, and must not miss a revocation.
        os.fchmod(file.fileno(), 0o644)
        file.write(text.encode())

    write_whole(path, write)


class SiteList:
    """The list of hospitals as it is on disk now; may be asked from several threads.

    A file that is later broken or gone changes nothing: the last good list stays in force, and a
    warning says so once for each change.

    Args:
        path: ``sites.json``.

    Raises:
        BadInput: It cannot be read, or is no such list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._good = _stamp(path)
        self._warned: object = None
        self._told: datetime | None = None
        self._sites = read_sites(path)

    def lookup(self, name: str) -> Site | None:
        """Return what is known of a hospital, or None if it is not on the list."""
        with self._lock:
            self._refresh()
            return self._sites.get(name)

    def refusal(self, name: str, now: datetime) -> str | None:
        """Return a sentence that says why a hospital may not take part; None if it may.

        Args:
            name: The hospital's.
            now: The time, with its zone.
        """
        self.tell_expiring(now)
        site = self.lookup(name)
        if site is None:
            return f"{name} is not on the list of hospitals"
        if site.revoked is not None:
            return f"{name} was revoked on {site.revoked:%Y-%m-%d}"
        if now >= site.expires:
            return f"the certificate of {name} expired on {site.expires:%Y-%m-%d}"
        return None

    def tell_expiring(self, now: datetime) -> None:
        """Warn once a day of the certificates that are about to expire."""
        if self._told is not None and now - self._told < timedelta(days=1):
            return
        self._told = now
        for notice in self.expiring(now):
            log.warning("%s", notice)

    def expiring(self, now: datetime) -> list[str]:
        """Return a warning for each hospital whose certificate is about to expire."""
        with self._lock:
            self._refresh()
            valid = [(name, site) for name, site in self._sites.items() if site.revoked is None]
        renew = "flower-provision renew FOLDER {} makes a new one"
        found = [expiry_notice(name, s.expires, now, renew.format(name)) for name, s in valid]
        return [notice for notice in found if notice is not None]

    def _refresh(self) -> None:
        # Looked at before it is read: a change in between is read now and again next time.
        stamp = _stamp(self.path)
        if stamp is not None and stamp == self._good:
            self._warned = None
            return
        try:
            self._sites = read_sites(self.path)
        except BadInput as error:
            # Tried again at every look: what stood in the way, such as the file's mode, may
            # change without a trace in the stamp.
            problem = (stamp, str(error))
            if problem != self._warned:
                log.warning("%s; the list read last stays in force", error)
            self._warned = problem
            return
        self._good, self._warned = stamp, None
        revoked = [name for name, site in self._sites.items() if site.revoked is not None]
        told = f"; revoked: {', '.join(revoked)}" if revoked else ""
        log.info("%s: read again, %d hospitals%s", self.path, len(self._sites), told)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file's content; None if there is no file to look at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
