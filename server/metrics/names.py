"""The metrics, each with its type, its labels and what it says; docs/monitoring.md has them all."""

from typing import Literal, NamedTuple

PREFIX = "fedcxr_"


class Described(NamedTuple):
    """What is known of a metric beforehand.

    Attributes:
        kind: Its type in OpenMetrics. A counter is of the whole run, also after ``--resume``.
        text: What it says.
        labels: Their names.
    """

    kind: Literal["gauge", "counter"]
    text: str
    labels: tuple[str, ...] = ()


METRICS = {
    "run_info": Described(
        "gauge",
        "Always 1; what the run is, in labels",
        ("run", "version", "architecture", "strategy", "mode", "init"),
    ),
    "run_state": Described("gauge", "1 for the state that the run is in", ("state",)),
    "run_folder_free_bytes": Described("gauge", "Free on the disk of the run's folder"),
    "planned_rounds": Described("gauge", "Rounds that the run is to have"),
    "completed_rounds_total": Described("counter", "Rounds that are done"),
    "remaining_seconds": Described("gauge", "Estimate for the rounds that are left"),
    "repeated_rounds_total": Described("counter", "Attempts with too few valid replies"),
    "best_round": Described("gauge", "Round of the best model"),
    "round": Described("gauge", "Round that is going on; 0: none yet"),
    "attempt": Described("gauge", "Attempt at the round that is going on"),
    "phase": Described("gauge", "1 for the phase that the round is in", ("phase",)),
    "phase_start_timestamp_seconds": Described("gauge", "When the phase began"),
    "round_seconds": Described("gauge", "Duration of the last round, by phase", ("phase",)),
    "usual_round_seconds": Described(
        "gauge",
        "Median duration of the last ten rounds, by phase; from three rounds on",
        ("phase",),
    ),
    "hospitals_needed": Described("gauge", "Hospitals that the round waits for or needs"),
    "hospitals_connected": Described("gauge", "Hospitals that are connected"),
    "training_loss": Described("gauge", "Mean training loss of the last round"),
    "validation_auc": Described(
        "gauge", "AUC of the newest model that the hospitals have scored", ("kind",)
    ),
    "best_validation_auc": Described(
        "gauge", "The same of the best model, of the kind that chose it", ("kind",)
    ),
    "validation_finding_auc": Described(
        "gauge", "The same as validation_auc, by finding", ("kind", "finding")
    ),
    "test_auc": Described(
        "gauge", "Mean AUC of the newest model scored on the server's test shard"
    ),
    "test_finding_auc": Described("gauge", "The same as test_auc, by finding", ("finding",)),
    "hospital_state": Described(
        "gauge", "1 for what the hospital does right now", ("hospital", "state")
    ),
    "hospital_last_seen_timestamp_seconds": Described(
        "gauge",
        "When the server last heard of the hospital; now while it is connected",
        ("hospital",),
    ),
    "hospital_missed_rounds": Described(
        "gauge", "Rounds in a row, up to the last one, without a valid reply", ("hospital",)
    ),
    "hospital_examples": Described("gauge", "Films that it trained on last", ("hospital",)),
    "hospital_training_loss": Described("gauge", "Its last mean training loss", ("hospital",)),
    "hospital_epsilon": Described(
        "gauge", "What the model tells of it or of one film of its, with --dp", ("hospital",)
    ),
    "hospital_validation_images": Described(
        "gauge", "Films that its last AUC rests on", ("hospital",)
    ),
    "hospital_validation_auc": Described(
        "gauge", "Its last mean AUC, of the model that it received", ("hospital",)
    ),
    "hospital_finding_auc": Described(
        "gauge", "The same as hospital_validation_auc, by finding", ("hospital", "finding")
    ),
    "hospital_seconds": Described(
        "gauge", "Duration of its last valid round, by part", ("hospital", "part")
    ),
    "hospital_received_bytes_total": Described(
        "counter", "Weights that it received in rounds that count", ("hospital",)
    ),
    "hospital_sent_bytes_total": Described(
        "counter", "Weights that it sent in rounds that count", ("hospital",)
    ),
    "rejections_total": Described(
        "counter", "Replies that were rejected, by the reason's class", ("hospital", "reason")
    ),
    "lost_replies_total": Described("counter", "Replies that did not come", ("hospital",)),
    "exclusions_total": Described("counter", "Exclusions after invalid replies", ("hospital",)),
}
"""By their names without the prefix."""
