"""Writes a model, its metadata and its card."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from common.errors import BadInput
from common.images import crop_size
from common.runtime.files import sha256_of, write_whole
from predict.metadata import DESCRIPTION, FEDERATED, Exported, Metadata, metadata_path
from predict.model_card import model_card, scores_of
from predict.model_file import Model, read_model
from predict.weights import EXPORTS, suffix_of

CARD = ".md"


def export(
    source: Path, out: Path, size: int | None, head: Literal["keep"] | None, *, force: bool
) -> list[Path]:
    """Write a model; return the files, that of the weights first.

    Args:
        source: A checkpoint, or a run's folder.
        out: The file of the weights; its suffix tells the format.
        size: S; None: what the run tells.
        head: See :func:`predict.model_file.read_model`.
        force: Whether files that are there may be replaced.

    Raises:
        BadInput: The model cannot be used, its size is not known, or a file is there already or
            cannot be written.
        FedCXRError: The exported model does not compute what the model does.
    """
    suffix = suffix_of(out)
    beside, card = metadata_path(out), out.with_name(out.name + CARD)
    for path in (out, beside, card):
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; choose another name")
        if path.exists() and not force:
            raise BadInput(f"{path}: is there already; choose another name or give --force")
    model = read_model(source, head)
    if out.exists() and out.samefile(model.file):
        raise BadInput(f"{out}: is the model itself; choose another name")
    if size is not None:
        model = replace(model, size=size)
    if model.size is None:
        raise BadInput(
            f"{model.file} does not tell the size of its films; give --size, such as --size 256"
        )
    scores_of(model)  # fails before the first file is written
    EXPORTS[suffix].write(model.network(torch.device("cpu")), model.size, out)
    metadata = _metadata(model, model.size, out)
    text = metadata.model_dump_json(indent=2) + "\n"
    write_whole(beside, lambda file: file.write(text.encode()))
    words = model_card(model, out.name, metadata)
    write_whole(card, lambda file: file.write(words.encode()))
    return [out, beside, card]


def _metadata(model: Model, size: int, out: Path) -> Metadata:
    made, validation = scores_of(model)
    scores = {
        "mean AUC at the hospitals": None if validation is None else validation.auc,
        "mean AUC on the test films": None if made is None or made.test is None else made.test.auc,
    }
    how = EXPORTS[suffix_of(out)]
    federated = model.provenance.run is not None
    where = "the hospitals of the run" if federated else "not known"
    if made is not None:
        where = ", ".join(sorted(made.hospitals))
    return Metadata(
        description=FEDERATED if federated else DESCRIPTION,
        pytorch_version=version("torch"),
        numpy_version=version("numpy"),
        authors=where,
        copyright=where,
        eval_metrics={name: auc for name, auc in scores.items() if auc is not None},
        network_data_format=how.data_format(size),
        fedcxr=Exported(
            sha256=sha256_of(out),
            architecture=model.architecture,
            image_size=size,
            preparation=how.preparation.format(size=size, side=crop_size(size)),
            provenance=model.provenance,
            calibration=dict(model.calibration),
        ),
    )
