"""What a round leaves in ``rounds.jsonl``."""

from typing import Any

from common.evaluation import Scores
from common.metrics import mean_auc, weighted_auc
from common.protocol import Reply


def hospital_entry(
    reply: Reply, elapsed: float, received: int, sent: int, update_norm: float
) -> dict[str, Any]:
    """Return a hospital's part of a round's line.

    What is left of the time on the server's clock is the transfer. It is shared between receiving
    and sending by their bytes, so that no clocks of two machines are compared.

    Args:
        reply: What the hospital said.
        elapsed: Seconds from the instruction to the reply, on the server's clock.
        received: Bytes of weights that the hospital received.
        sent: Bytes of weights that it sent.
        update_norm: Euclidean norm of the change of its weights.
    """
    seconds, scores = reply.seconds, reply.validation
    transfer = max(0.0, elapsed - seconds.wait - seconds.evaluate - seconds.train)
    return {
        "examples": reply.examples,
        "loss": reply.loss,
        "auc": scores.auc if scores else None,
        "auc_by_finding": scores.auc_by_finding if scores else None,
        "validation_images": scores.images if scores else 0,
        "validation_loss": scores.loss if scores else None,
        "seconds": {
            "receive": transfer * received / (received + sent),
            "wait": seconds.wait,
            "evaluate": seconds.evaluate,
            "train": seconds.train,
            "send": transfer * sent / (received + sent),
        },
        "bytes": {"received": received, "sent": sent},
        "update_norm": update_norm,
    }


def across(validations: dict[str, Scores]) -> dict[str, Any]:
    """Return the hospitals' mean AUC, overall and by finding, weighted by validation images."""
    ordered = [validations[name] for name in sorted(validations)]
    by_finding = weighted_auc([(scores.images, scores.auc_by_finding) for scores in ordered])
    return {"auc": mean_auc(by_finding), "auc_by_finding": by_finding}


def mean_loss(hospitals: dict[str, dict[str, Any]]) -> float:
    """Return the hospitals' mean training loss, weighted by examples."""
    entries = [hospitals[name] for name in sorted(hospitals)]
    examples = sum(entry["examples"] for entry in entries)
    return float(sum(entry["examples"] * entry["loss"] for entry in entries) / examples)
