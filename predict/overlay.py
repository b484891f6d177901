"""A heat map drawn over its film, with a line on what it is."""

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from common.findings import FINDINGS
from common.shard import Bytes
from predict.heatmap import GradCam, Heat
from predict.probabilities import Prediction
from radiographs.read.film_file import read_film

SHOWN = 512
"""Pixels along each side of the film in the picture."""

STRIP = 44
"""Height of the strip for the text, in pixels."""

OPACITY = 0.55
"""Of the colour where the heat is 1; where it is 0 the film alone is seen."""

COLOURS = "inferno"
"""matplotlib's; its brightness rises evenly, so that it is read without seeing colours too."""

WARNING = "Not a medical device. Grad-CAM; colours are relative to this film's maximum."


def draw(method: GradCam, prediction: Prediction, finding: str) -> Image.Image:
    """Return the picture of a finding's heat map over its film, RGB.

    Raises:
        Unreadable: The film can no longer be read.
        OSError: Nor can its file.
    """
    heat = method.heat(prediction.film.pixels, finding)
    probability = float(prediction.probabilities[FINDINGS.index(finding)])
    film = read_film(prediction.film.file, SHOWN)
    return overlay(film, heat, finding, probability, calibrated=finding in prediction.calibrated)


def overlay(
    film: Bytes, heat: Heat, finding: str, probability: float, *, calibrated: bool
) -> Image.Image:
    """Return the picture, RGB, SHOWN wide.

    Args:
        film: uint8, SHOWN x SHOWN.
        heat: Of the same film, of any size.
        finding: Whose heat it is.
        probability: Of the finding on the film.
        calibrated: Whether the probability is.
    """
    fine = np.asarray(Image.fromarray(heat).resize((SHOWN, SHOWN), Image.Resampling.BILINEAR))
    share = OPACITY * fine[..., np.newaxis]
    colour = colormaps[COLOURS](fine)[..., :3] * 255
    mixed = film[..., np.newaxis] * (1 - share) + colour * share
    picture = Image.new("RGB", (SHOWN, SHOWN + STRIP))
    picture.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    title = f"{finding.replace('_', ' ')}: probability {probability:.3f}"
    title += "" if calibrated else ", not calibrated"
    title += "" if heat.any() else "; no place speaks for it"
    draw.text((6, SHOWN + 4), title, fill="white", font=font)
    draw.text((6, SHOWN + 23), WARNING, fill="white", font=font)
    return picture
