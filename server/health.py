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
from common.runtime.status import read_status
from server.cli import ServerSettings
from server.run.records import RunStatus
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


def standing(run: Path) -> str:
    """Return how a run stands, in a few words."""
    try:
        status = read_status(run, RunStatus)
    except BadInput:
        return "no round yet"
    if status.round is None:
        return "no round yet"
    return f"round {status.round} of {status.rounds} done"


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
    print(standing(settings.run))


if __name__ == "__main__":
    main()
