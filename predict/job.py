"""Films in, probabilities out: what ``flower-predict`` does with the files that it is given."""

import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from common.model import choose_device
from predict.films import Film, dullness, files_of, read_films, read_one
from predict.heatmap import GradCam
from predict.heatmap_files import HeatmapWriter, check_apart, heatmap_paths
from predict.model_file import read_model
from predict.probabilities import Prediction, predict
from predict.settings import PredictSettings
from predict.tables import Row
from radiographs.read.decode import Unreadable
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
        calibration: What is known of the model's probabilities and thresholds.

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
        self.calibration = model.calibration
        self._network = model.network(self._device)

    def predict_one(self, file: Path) -> Prediction | str:
        """Return what the model says of a film, or why the file is refused."""
        pixels = read_one(file, self._settings.wanted, self.size)
        if isinstance(pixels, str):
            return pixels
        films = [Film(file, pixels)]
        (prediction,) = predict(self._network, films, self.size, self._device, self.calibration)
        return prediction

    def heatmaps(self) -> GradCam:
        """Return what draws heat maps of the model.

        Raises:
            BadInput: The package for it is not installed.
        """
        return GradCam(self._network, self._device)

    def run(self) -> tuple[list[Row], Refused]:
        """Return a row for each film, and the reason for each refused file; tell the latter.

        Raises:
            BadInput: A folder is empty, or a heat map cannot be written.
        """
        settings = self._settings
        files, refused = files_of(settings.images)
        writer, paths = self._heatmaps(files)
        films = read_films(list(files), settings.wanted, self.size, settings.workers, refused)
        rows: list[Row] = []
        for prediction in predict(self._network, films, self.size, self._device, self.calibration):
            film, probabilities, called, _ = prediction
            if (cause := dullness(film)) is not None:
                print(
                    f"dull: {film.file}: the model sees little on it; likely cause: {cause}",
                    file=sys.stderr,
                )
            path = paths.get(film.file)
            if writer is not None and path is not None:
                try:
                    writer.write(prediction, path)
                except Unreadable as error:  # it was read for the prediction
                    refused[PurePosixPath(film.file)] = str(error)
                    continue
            rows.append(Row(film.file, tuple(map(str, probabilities)), called, path))
        tell_refused(refused)
        return rows, refused

    def _heatmaps(
        self, files: Mapping[Path, PurePosixPath]
    ) -> tuple[HeatmapWriter | None, dict[Path, Path]]:
        """Return what writes heat maps, and where to; nothing if none are wanted."""
        settings = self._settings
        if settings.heatmap is None:
            return None, {}
        form = settings.heatmap_format
        check_apart(settings.heatmap, settings.images)
        paths = heatmap_paths(files, settings.heatmap, form, force=settings.force)
        return HeatmapWriter(self.heatmaps(), form, settings.finding), paths
