"""What benchmarks ask a hospital to do."""

from common.message import Identity
from common.options import Training
from common.protocol import Instruction

RUN = "benchmark"


def to_train(training: Training, number: int = 1, seed: int = 0) -> Instruction:
    """Return an instruction to train a whole DenseNet-121.

    Args:
        training: Settings.
        number: The round's.
        seed: The run's.
    """
    return Instruction(
        identity=Identity(run=RUN, round=number, attempt=1),
        task="train",
        weights="all",
        architecture="densenet121",
        training=training,
        seed=seed,
        seconds=1e6,
    )
