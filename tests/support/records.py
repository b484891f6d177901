"""Records of a run to start from."""

from common.findings import FINDINGS
from server.run.records import Bytes, HospitalRecord, HospitalSeconds, RoundRecord, RoundSeconds

HOSPITAL = HospitalRecord(
    examples=10,
    loss=0.5,
    auc=None,
    auc_by_finding=None,
    validation_images=0,
    validation_loss=None,
    seconds=HospitalSeconds(receive=0, wait=0, evaluate=0, train=0, send=0),
    bytes=Bytes(received=0, sent=0),
    update_norm=0.1,
    weights_sha256="0" * 64,
)


def round_record(number: int = 1, **changes: object) -> RoundRecord:
    """Return a round in which the hospital ``a`` took part."""
    fields: dict[str, object] = {
        "round": number,
        "attempt": 1,
        "auc": None,
        "auc_by_finding": dict.fromkeys(FINDINGS),
        "loss": 0.5,
        "test": None,
        "hospitals": {"a": HOSPITAL},
        "rejected": {},
        "missing": [],
        "seconds": RoundSeconds(hospitals=1, average=0, save=0, test=0, total=1),
        "model_sha256": "0" * 64,
    }
    return RoundRecord.model_validate({**fields, **changes})
