"""What commands that hospitals connect to do alike: certificates, test shard, last status."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from common.errors import BadInput, FedCXRError, NoQuorum
from common.options import Mode
from common.runtime.cli import Stopped
from server.members.sites import SiteList
from server.options import PAPER_IMAGE_SIZE, ServingSettings
from server.rounds.testing import Tester
from server.run.folder import RunFolder, unwritable
from server.run.records import RunState, RunStatus
from server.transport.tls import ServerTLS

log = logging.getLogger(__name__)

RESTART_SECONDS = 180.0
"""How long a server whose work is done already waits for the hospitals, to tell them; they may all
be starting on one machine."""


def certificates(settings: ServingSettings) -> tuple[ServerTLS | None, SiteList | None]:
    """Return the server's certificate and the list of hospitals; None and None with --insecure.

    Raises:
        BadInput: They cannot be used.
    """
    if settings.tls is None:
        log.warning("--insecure: nothing is encrypted, and any client may take part")
        return None, None
    tls, sites = ServerTLS(settings.tls), SiteList(settings.tls / "sites.json")
    sites.tell_expiring(datetime.now(UTC))
    return tls, sites


def tester_of(settings: ServingSettings, mode: Mode) -> tuple[Tester | None, int]:
    """Return what scores the models, if anything does, and the size of the hospitals' images.

    Args:
        settings: Name the test shard.
        mode: Of the training.

    Raises:
        BadInput: The test shard cannot be used, or has images of another size.
    """
    if settings.test is None:
        return None, settings.image_size or PAPER_IMAGE_SIZE
    tester = Tester(settings.test, settings.architecture, settings.device, settings.threads, mode)
    size = settings.image_size or tester.image_size
    if tester.image_size != size:
        raise BadInput(
            f"{settings.test}: its images are {tester.image_size} pixels wide, but --image-size "
            f"is {size}; make the shard again or leave the option out"
        )
    return tester, size


@contextmanager
def terminal_status(folder: RunFolder, rounds: int) -> Iterator[None]:
    """Write how the run ended, should it not end well.

    Raises:
        BadInput: A file of the run cannot be written.
    """

    def end(state: RunState, reason: str) -> None:
        folder.status.end(RunStatus(state=state, reason=reason, rounds=rounds))

    try:
        yield
    except Stopped as stopped:
        end("stopped", str(stopped))
        raise
    except NoQuorum as error:
        end("no quorum", str(error))
        raise
    except OSError as error:
        fault = unwritable(folder.path, error)
        end("failed", str(fault))
        raise fault from error
    except BaseException as error:
        end("failed", str(error) if isinstance(error, FedCXRError) else type(error).__name__)
        raise
