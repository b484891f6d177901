"""Films in, probabilities out: what ``flower-predict`` does with the files that it is given."""

import sys

from common.model import choose_device
from predict.films import dullness, files_of, read_films
from predict.model_file import read_model
from predict.probabilities import predict
from predict.settings import PredictSettings
from predict.tables import Row
from radiographs.sources.site_films import Refused
from radiographs.sources.site_report import tell_refused

USUAL_SIZE = 256


class Job:
    """A model with the films' size that it needs.

    Args:
        settings: The command's options.

    Attributes:
        name: The model's file.
        size: S, pixels along each side of the films.

    Raises:
        BadInput: The model or the device cannot be used.
    """

    def __init__(self, settings: PredictSettings) -> None:
        self._settings = settings
        self._device = choose_device(settings.device)
        model = read_model(settings.model, settings.head)
        self.name = str(model.file)
        self.size = settings.size or model.size or USUAL_SIZE
        if settings.size is None and model.size is None:
            print(
                f"{model.file} does not tell the size of its films: {self.size} is taken (--size)",
                file=sys.stderr,
            )
        self._network = model.network(self._device)

    def run(self) -> tuple[list[Row], Refused]:
        """Return a row for each film, and the reason for each refused file; tell the latter.

        Raises:
            BadInput: A folder is empty.
        """
        settings = self._settings
        files, refused = files_of(settings.images)
        films = read_films(files, settings.wanted, self.size, settings.workers, refused)
        rows: list[Row] = []
        for film, probabilities in predict(self._network, films, self._device):
            if (cause := dullness(film)) is not None:
                print(
                    f"dull: {film.file}: the model sees little on it; likely cause: {cause}",
                    file=sys.stderr,
                )
            rows.append(Row(film.file, tuple(map(str, probabilities)), None))
        tell_refused(refused)
        return rows, refused
