"""``python -m server.health``: asks the server of this machine whether it serves, for containers.

It takes the server's own variables. Prints how the run stands; exit code 0, or 1 without
an answer.
"""

import sys
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from common.errors import BadInput
from common.net import NO_PROXY, split_address
from common.runtime.cli import parse
from server.cli import ServerSettings
from server.run.records import read_run_status
from server.transport.tls import ServerTLS

SECONDS = 5.0


def answers(port: int, tls: Path | None) -> bool:
    """Return whether a server on this machine answers gRPC's standard health request.

    Args:
        port: Its port.
        tls: Its folder, as given to ``flower-server``; None: it does not encrypt. The server's own
            certificate is shown as the client's.

    Raises:
        BadInput: A file of its folder cannot be used.
    """
    address = f"127.0.0.1:{port}"
    options: list[tuple[str, int | str]] = [NO_PROXY]
    if tls is None:
        channel = grpc.insecure_channel(address, options)
    else:
        server = ServerTLS(tls)
        credentials = grpc.ssl_channel_credentials(
            server.ca_pem, server.pair.key, server.pair.certificate
        )
        options.append(("grpc.ssl_target_name_override", server.hosts[0]))
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        try:
            HealthStub(channel).Check(HealthCheckRequest(), timeout=SECONDS)  # type: ignore[attr-defined]
        except grpc.RpcError:
            return False
    return True


class Unhealthy(Exception):  # noqa: N818 - a finding, not a fault
    """Says what is wrong."""


def standing(run: Path) -> str:
    """Return how a run stands, in a few words.

    Raises:
        Unhealthy: Its process was killed, or a round waits for hospitals.
    """
    try:
        status = read_run_status(run)
    except BadInput:
        return "no round yet"
    if status.state == "stopped":
        raise Unhealthy(f"stopped: {status.reason}")
    done = f"round {status.round} of {status.rounds} done" if status.round else "no round yet"
    if status.state != "waiting":
        return done
    waiting = f"waiting for hospitals: {status.hospitals} of {status.needed} are there, {done}"
    if status.round is None:
        return waiting
    raise Unhealthy(waiting)


def main() -> None:
    """Print how the server stands and exit."""
    try:
        settings = parse(ServerSettings, [])
        _, port = split_address(settings.listen)
        answered = answers(port, settings.tls)
    except (BadInput, OSError) as error:
        sys.exit(str(error))
    if not answered:
        sys.exit("it does not answer")
    try:
        print(standing(settings.run))
    except Unhealthy as finding:
        sys.exit(str(finding))


if __name__ == "__main__":
    main()
