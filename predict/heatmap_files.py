"""Where heat maps are written, and in which format."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath

from common.errors import BadInput
from common.runtime.files import write_whole
from predict.heatmap import GradCam
from predict.overlay import draw
from predict.probabilities import Prediction
from predict.secondary_capture import secondary_capture
from predict.settings import HeatmapFormat
from radiographs.read.decode import Unreadable

SUFFIX: dict[HeatmapFormat, str] = {"png": ".heatmap.png", "dicom": ".heatmap.dcm"}


def heatmap_paths(
    files: Mapping[Path, PurePosixPath], folder: Path, form: HeatmapFormat, *, force: bool
) -> dict[Path, Path]:
    """Return the path of each film's heat map.

    Args:
        files: Films, each with its path below the folder that was given, or its name.
        folder: Folder of the heat maps, which get the same paths below it.
        form: Format of the heat maps.
        force: Whether files that are there may be replaced.

    Raises:
        BadInput: Two films would get the same path, or a file is there already.
    """
    paths: dict[Path, Path] = {}
    for file, place in files.items():
        path = folder / f"{place}{SUFFIX[form]}"
        if path in paths.values():
            raise BadInput(f"{path}: two films would have this heat map; give one at a time")
        if path.exists() and not force:
            raise BadInput(f"{path}: is there already; choose another --heatmap or give --force")
        paths[file] = path
    return paths


def check_apart(folder: Path, given: Sequence[Path]) -> None:
    """Refuse a folder of heat maps within one of films: they would be taken for films next time.

    Raises:
        BadInput: It is in one.
    """
    for films in given:
        if films.is_dir() and folder.resolve().is_relative_to(films.resolve()):
            raise BadInput(f"--heatmap {folder}: is in {films}, the films'; give another folder")


class HeatmapWriter:
    """Draws and writes heat maps.

    Args:
        method: Draws them.
        form: Format of the files.
        finding: Whose heat maps; None: the most probable of each film.
    """

    def __init__(self, method: GradCam, form: HeatmapFormat, finding: str | None) -> None:
        self._method = method
        self._form = form
        self._finding = finding

    def write(self, prediction: Prediction, path: Path) -> None:
        """Write a film's heat map.

        Raises:
            Unreadable: The film can no longer be read.
            OSError: The file cannot be written.
        """
        try:
            content = self._content(prediction)
        except OSError as error:
            raise Unreadable(str(error.strerror)) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(content.getbuffer()))

    def _content(self, prediction: Prediction) -> io.BytesIO:
        """Return the content of the file.

        Raises:
            Unreadable: The film can no longer be read.
            OSError: Nor can its file.
        """
        content = io.BytesIO()
        finding = self._finding or prediction.likeliest
        picture = draw(self._method, prediction, finding)
        if self._form == "png":
            picture.save(content, "PNG")
        else:
            now = datetime.now().astimezone()
            secondary_capture(picture, prediction.film.file, finding, now).save_as(
                content, enforce_file_format=True
            )
        return content
