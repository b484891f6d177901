"""How long a round with secure sums takes, beside a plain one.

A real ``flower-server`` with a DenseNet-121, three rounds for each row. The hospitals are threads
of one process, each with its own gRPC connection; they do not train. Their keys have no
certificates: a signature takes a hospital less than a millisecond.

    python -m benchmarks.secure_rounds [HOSPITALS ...]
"""

import os
import platform
import sys
from functools import cache

from benchmarks.federation_overhead import EchoHospital
from benchmarks.server_memory import peak_of
from client.secure.sums import SecureSums
from common.model import build_model, state_of
from common.options import Architecture
from common.protocol import Instruction, Reply, Seconds
from common.secure.terms import terms_of
from common.state import Spec, spec_of
from common.wire import Blob, unpack

COUNTS = (10, 50)
ROUNDS = 3
FILMS = 100
SECURE = ("--secure-aggregation", "--max-examples", "200")


@cache
def _spec(architecture: Architecture) -> Spec:
    return spec_of(state_of(build_model(architecture)))


class SummedHospital(EchoHospital):
    """A hospital that does not train, and whose update goes into a secure sum."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sums = SecureSums(name, lambda: None)

    def answer(
        self, instruction: Instruction, blob: Blob, cancellation: object, tell: object
    ) -> tuple[Reply, Blob]:
        """Return keys; the received weights are held for the sum."""
        if instruction.secure is None:  # the last model is scored
            return super().answer(instruction, blob, cancellation, tell)
        state = unpack(blob, _spec(instruction.architecture))
        terms = terms_of(instruction, state, None)
        attempt = self.sums.begin(instruction.identity, instruction.secure, instruction.seed, terms)
        attempt.hold_change(state, state, FILMS, 0.5)
        reply = Reply(
            identity=instruction.identity,
            status="ok",
            seconds=Seconds(wait=0, evaluate=0, train=0),
            keys=attempt.keys,
        )
        return reply, b""


def main() -> None:
    """Measure, and print the table."""
    counts = [int(text) for text in sys.argv[1:]] or COUNTS
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print("| hospitals | | s a round | of plain | server's peak, MB |")
    print("|---|---|---|---|---|")
    for count in counts:
        memory, plain = peak_of(count, rounds=ROUNDS)
        print(f"| {count} | plain | {plain:.1f} | 1.0 | {memory / 1e6:.0f} |", flush=True)
        memory, secure = peak_of(count, rounds=ROUNDS, kind=SummedHospital, flags=SECURE)
        ratio = f"{secure / plain:.1f}"
        print(f"| {count} | secure | {secure:.1f} | {ratio} | {memory / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
