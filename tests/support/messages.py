"""Messages to start from."""

from common.findings import FINDINGS
from common.message import Identity
from common.options import Training
from common.protocol import Hello, Instruction, Reply

IDENTITY = Identity(run="r", round=3, attempt=1)

HELLO = Hello(
    site="a",
    version="0",
    examples=100,
    validation=10,
    image_size=64,
    backbone=None,
    process="0" * 32,
)


INSTRUCTION = Instruction(
    identity=IDENTITY,
    task="train",
    weights="all",
    architecture="densenet-tiny",
    training=Training(
        mode="finetune", lr=0.1, momentum=0, batch_size=1, local_epochs=1, label_fraction=1
    ),
    seed=0,
    seconds=60,
)


GOOD = Reply(identity=IDENTITY, status="ok", examples=100, loss=0.5, weights="0" * 64)


HELLO_WORDS = {
    "kind": "hello",
    "site": "a",
    "version": "0",
    "examples": 100,
    "image_size": 64,
    "backbone": None,
    "process": "0" * 32,
}


SCORES = {"images": 10, "loss": 0.3, "auc": 0.5, "auc_by_finding": dict.fromkeys(FINDINGS, 0.5)}


REPLY_WORDS = {
    "identity": IDENTITY.model_dump(),
    "status": "ok",
    "examples": 100,
    "loss": 0.5,
    "validation": SCORES,
    "seconds": {"wait": 0, "evaluate": 1, "train": 1},
    "weights": "0" * 64,
}
