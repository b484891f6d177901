"""Do the first models' leads rest on patients whose films chose the settings of pretraining?

    python -m benchmarks.pretrain_overlap --labels LABELS --results RESULTS --root ROOT

LABELS is the ``labels.csv`` of the films of pretrain_evidence.md; RESULTS and ROOT are those of
``flower-experiments report`` at the scale small. Prints each first model's mean AUC minus that of
random weights on all test films, and on those of patients who have no film in LABELS.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from common.bootstrap import Bootstrap, Films
from experiments.paper.rates import Reading
from experiments.paper.results import Results
from experiments.paper.scales import SCALES

TABLES: tuple[Reading, ...] = ("table1", "table2")


def main() -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(description="first models without patients seen before")
    for name in ("labels", "results", "root"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    with arguments.labels.open(newline="") as file:
        seen = {row["Patient ID"] for row in csv.DictReader(file)}
    found = Results(SCALES["small"], arguments.results, arguments.root / "data")
    unseen = np.array([str(int(patient)) not in seen for patient in found.films.patients])
    few = Films(
        found.films.labels[unseen],
        [patient for patient, new in zip(found.films.patients, unseen, strict=True) if new],
    )
    patients, findings = len(set(few.patients)), few.counted.sum()
    print(f"unseen: {patients} patients, {unseen.sum()} films, {findings} findings\n")
    print("| table | first model | all | unseen |\n|---|---|---|---|")
    bootstrap = Bootstrap(few, seed=0)
    for table in TABLES:
        trials = {model: found.trials(table, model) for model in found.scale.table2}
        on_few = {
            model: {
                seed: bootstrap.mean_auc(found.scores_of(line.cell.name)[unseen])
                for seed, line in by_seed.items()
            }
            for model, by_seed in trials.items()
        }
        for model, by_seed in trials.items():
            if model == "random" or not by_seed:
                continue
            whole = found.bootstrap.difference(found.means(by_seed), found.means(trials["random"]))
            part = bootstrap.difference(on_few[model], on_few["random"])
            words = [
                "-" if of is None else f"{of.value:+.3f} ({of.low:+.3f} to {of.high:+.3f})"
                for of in (whole, part)
            ]
            print(f"| {table} | {model} | {words[0]} | {words[1]} |")


if __name__ == "__main__":
    main()
