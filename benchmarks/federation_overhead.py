"""The duration of a round without training, compared with moving and averaging the same bytes.

Ten client processes and one server on loopback, a DenseNet-121 (727 tensors, 28.2 MB), no training:

- floor: raw sockets, the same bytes down and up for all ten at once, then a weighted mean with
  numpy in float64. No framing, no checks, nothing is saved.
- Flower: its start_server and start_client, the same bytes down and up, no mean. The difference
  from the floor is the transport, see docs/decisions/0001-flower-transport.md.
- FedCXR: the real server, gRPC, safetensors, hashes, checks, mean, checkpoint with fsync. With
  --wire bf16 each hospital returns the same random change each time, encoded once.

This command runs all four in turn, twice. The first rounds of each, in which processes touch their
memory for the first time, are left out. Ratios are of the medians:

    python -m benchmarks.federation_overhead [ROUNDS]
"""

import io
import logging
import multiprocessing
import multiprocessing.queues
import os
import platform
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Thread

import numpy as np

from common.codec import encode
from common.model import build_model, state_of
from common.options import Wire
from common.protocol import Greeting, Hello, Instruction, Reply, Seconds
from common.runtime.memory import keep_freed_memory
from common.state import parameters_of, spec_of
from common.wire import Blob, fingerprint, pack, unpack
from experiments.launch.local import free_port
from server.run.records import read_rounds

HOSPITALS = 10
WARM_UP = 3
CHUNK = 1 << 20
PROCESSES = multiprocessing.get_context("forkserver")


class EchoHospital:
    """A hospital that returns weights without training, and hashes them.

    They are the received ones; where changes travel encoded, a random change that is encoded once.
    """

    device = "cpu"
    precision = "fp32"
    scored = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._change: Blob = b""

    def greet(self, _greeting: Greeting) -> Hello:
        """Return the hospital's hello."""
        return Hello(
            site=self.name,
            version="0",
            examples=100,
            image_size=64,
            backbone=None,
            process=secrets.token_hex(16),
        )

    def forget_scores(self) -> None:
        """It has none."""

    def answer(
        self, instruction: Instruction, blob: Blob, _cancellation: object, _tell: object
    ) -> tuple[Reply, Blob]:
        """Return weights."""
        if instruction.wire != "fp32":
            self._change = self._change or _random_change(blob, instruction.wire)
            blob = self._change
        reply = Reply(
            identity=instruction.identity,
            status="ok",
            examples=100,
            loss=0.5,
            seconds=Seconds(wait=0, evaluate=0, train=0),
            weights=fingerprint(blob),
        )
        return reply, blob


def _random_change(blob: Blob, wire: Wire) -> bytes:
    """Return a change of parameters as it travels, and all else as it was received."""
    rng = np.random.default_rng(0)
    state = unpack(blob, spec_of(state_of(build_model("densenet121"))))
    steps = {
        name: rng.normal(0, 1e-4, array.shape).astype(np.float32)
        for name, array in parameters_of(state).items()
    }
    return encode(state | steps, wire, rng)


def echo_client(name: str, address: str) -> None:
    """Take part in a run without training."""
    from client.state import ClientState
    from client.transport.connection import take_part
    from client.transport.messages import MessageHandler

    keep_freed_memory()
    hospital = EchoHospital(name)
    handler = MessageHandler(hospital, ClientState(None))  # type: ignore[arg-type]
    take_part(handler, address, None, patience=120)


def our_rounds(rounds: int, wire: Wire = "fp32") -> list[float]:
    """Return the seconds of each round of a FedCXR federation."""
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder, _processes(echo_client, address):
        run = Path(folder) / "run"
        server = PROCESSES.Process(target=_server, args=(str(run), address, rounds, wire))
        server.start()
        server.join()
        return [record.seconds.total for record in read_rounds(run)]


def _server(run: str, address: str, rounds: int, wire: Wire) -> None:
    from server.cli import main

    options = {"init": "random", "run": run, "rounds": rounds, "min-clients": HOSPITALS}
    options |= {"listen": address, "image-size": 64, "threads": 1, "wire": wire}
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    sys.stderr = io.StringIO()
    sys.argv = ["flower-server", "--insecure", *arguments]
    main()


def bare_client(_name: str, address: str) -> None:
    """Return the received weights with Flower's own client."""
    import grpc
    from flwr.client import Client, start_client
    from flwr.common import Code, FitIns, FitRes, Status

    class Echo(Client):
        def fit(self, ins: FitIns) -> FitRes:
            return FitRes(Status(Code.OK, ""), ins.parameters, 100, {})

    logging.disable()
    keep_freed_memory()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            start_client(server_address=address, client=Echo().to_client(), insecure=True)
            return
        except grpc.RpcError:
            time.sleep(0.1)


def flower_rounds(rounds: int) -> list[float]:
    """Return the seconds of each round of Flower alone, with the server in a separate process."""
    address = f"127.0.0.1:{free_port()}"
    seconds: multiprocessing.queues.Queue[list[float]] = PROCESSES.Queue()
    with _processes(bare_client, address):
        server = PROCESSES.Process(
            target=bare_server, args=(address, HOSPITALS, rounds, seconds.put)
        )
        server.start()
        result = seconds.get(timeout=300)
        server.join()
    return result


def bare_server(
    address: str, hospitals: int, rounds: int, tell: Callable[[list[float]], object]
) -> None:
    """Send and receive a DenseNet-121 with Flower's own server; tell the seconds of each round."""
    from flwr.common import FitIns, Parameters
    from flwr.server import History, Server, ServerConfig, SimpleClientManager, start_server

    blob = pack(state_of(build_model("densenet121")))

    class Rounds(Server):
        def fit(self, num_rounds: int, timeout: float | None) -> tuple[History, float]:
            del num_rounds, timeout
            self.client_manager().wait_for(hospitals, 100)
            seconds = []
            for _ in range(rounds):
                start = time.monotonic()
                threads = [
                    Thread(target=proxy.fit, args=(FitIns(Parameters([blob], ""), {}), 600, None))
                    for proxy in self.client_manager().all().values()
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                seconds.append(time.monotonic() - start)
            tell(seconds)
            return History(), 0.0

    logging.disable()
    keep_freed_memory()
    start_server(
        server_address=address,
        server=Rounds(client_manager=SimpleClientManager()),
        config=ServerConfig(num_rounds=1),
    )


def raw_client(_name: str, address: str) -> None:
    """Receive a blob and send it back, until the connection closes."""
    keep_freed_memory()
    host, port = address.split(":")
    with _connect(host, int(port)) as connection:
        while head := connection.recv(8, socket.MSG_WAITALL):
            connection.sendall(head)
            connection.sendall(_receive(connection, int.from_bytes(head, "little")))


def floor_rounds(rounds: int) -> list[float]:
    """Return the seconds of each round over raw sockets."""
    state = state_of(build_model("densenet121"))
    blob = pack(state)
    values = np.frombuffer(blob[len(blob) % 4 :], np.float32)
    seconds = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with _processes(raw_client, address):
            connections = [listener.accept()[0] for _ in range(HOSPITALS)]
            for _ in range(rounds):
                start = time.monotonic()
                replies = _exchange(connections, blob)
                total = np.zeros(values.shape)
                for reply in replies:
                    total += 100 * np.frombuffer(reply[len(reply) % 4 :], np.float32).astype(float)
                (total / (100 * HOSPITALS)).astype(np.float32)
                seconds.append(time.monotonic() - start)
            for connection in connections:
                connection.close()
    return seconds


def _exchange(connections: list[socket.socket], blob: bytes) -> list[bytearray]:
    replies: list[bytearray] = []

    def exchange(connection: socket.socket) -> None:
        connection.sendall(len(blob).to_bytes(8, "little"))
        connection.sendall(blob)
        size = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "little")
        replies.append(_receive(connection, size))

    threads = [Thread(target=exchange, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def _receive(connection: socket.socket, size: int) -> bytearray:
    blob = bytearray(size)
    view = memoryview(blob)
    while view:
        view = view[connection.recv_into(view, min(len(view), CHUNK)) :]
    return blob


def _connect(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=120)


@contextmanager
def _processes(target: object, address: str) -> Iterator[None]:
    processes: list[ForkServerProcess] = [
        PROCESSES.Process(target=target, args=(f"hospital-{i:02d}", address))  # type: ignore[arg-type]
        for i in range(HOSPITALS)
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.join(30)
            process.kill()


def main(rounds: int = 7) -> None:
    """Measure all four in turn, twice, and print the table."""
    os.environ["OMP_NUM_THREADS"] = "1"
    PROCESSES.set_forkserver_preload(
        ["benchmarks.federation_overhead", "client.transport.connection", "server.cli"]
    )
    keep_freed_memory()
    stacks: dict[str, Callable[[int], list[float]]] = {
        "floor": floor_rounds,
        "Flower": flower_rounds,
        "FedCXR": our_rounds,
        "FedCXR, --wire bf16": partial(our_rounds, wire="bf16"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in stacks}
    for _ in range(2):
        for name, measure in stacks.items():
            seconds[name] += measure(WARM_UP + rounds)[WARM_UP:]
    versions = [f"{name} {version(name)}" for name in ("flwr", "grpcio", "torch", "numpy")]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, {', '.join(versions)}")
    print(f"{HOSPITALS} hospitals, DenseNet-121, {2 * rounds} rounds of each, seconds per round\n")
    print("|  | median | min | max | ratio of the medians |\n|---|---|---|---|---|")
    floor = statistics.median(seconds["floor"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"| {name} | {middle:.2f} | {min(values):.2f} | {max(values):.2f} "
            f"| {middle / floor:.1f} |"
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
