"""``flower-data show``: the content of a shard, or of a folder of shards, at a glance."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import BadInput
from common.findings import FINDINGS, NO_FINDING, UNKNOWN
from common.runtime.cli import Settings, parse
from common.runtime.files import write_whole
from common.shard import Bytes, Shard, find_shards, open_shard
from radiographs.inspect.summary import Summary, shares_figure, tables
from radiographs.write.partition import spelled_out

FILMS = 8
"""Films in a row of the contact sheet."""

CELL = 128
"""Pixels along each side of a film on the contact sheet."""

MARGIN = 150
"""Width of the row names, in pixels."""

CAPTION = 18
"""Height of the caption below a film, in pixels."""

SMALL = ImageFont.load_default(10)
"""Font of the captions."""


class Film(NamedTuple):
    """A film on the contact sheet: uint8, S x S, and its findings."""

    pixels: Bytes
    caption: str


class ShowSettings(Settings):
    """Print how many images show each finding; draw their shares and a contact sheet."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_DATA_", cli_prog_name="flower-data show")

    data: CliPositionalArg[Path] = Field(description="a shard, or a folder of shards")
    out: Path | None = Field(
        None,
        description="new PNG file: shares of the findings, as in the paper's figure 4, and films",
    )


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: There is no shard, one is damaged, or --out is taken.
    """
    settings = parse(ShowSettings, arguments)
    if settings.out is not None:
        check_new(settings.out)
    shards = [open_shard(path) for path in find_shards(settings.data)]
    summaries = [summary_of(shard) for shard in shards]
    print("\n".join(tables(summaries)))
    for split in dict.fromkeys(filter(None, map(split_of, shards))):
        print(f"split: {split}")
    if settings.out is not None:
        pictures = [contact_sheet(by_finding(shards[0]) if len(shards) == 1 else by_shard(shards))]
        if any(summary.labels is not None for summary in summaries):
            pictures.insert(0, shares_figure(summaries))
        write_png(settings.out, pictures)
        print(f"drawn: {settings.out}")


def check_new(picture: Path) -> None:
    """Refuse to overwrite a picture.

    Raises:
        BadInput: The file exists.
    """
    if picture.exists():
        raise BadInput(f"{picture}: is there already; choose another name or remove it")


def write_png(path: Path, pictures: Sequence[Image.Image]) -> None:
    """Write pictures below each other.

    Raises:
        BadInput: The file cannot be written.
    """
    width = max(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    try:
        write_whole(path, lambda file: sheet.save(file, "PNG"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


def summary_of(shard: Shard) -> Summary:
    """Return the summary of a shard."""
    patients = len({entry.patient for entry in shard.entries})
    name = shard.path.resolve().name
    return Summary(name, len(shard), patients, shard.manifest.size, shard.labels)


def split_of(shard: Shard) -> str | None:
    """Return how a shard's images were chosen among all, with the seed; None if unknown."""
    manifest = shard.manifest
    if manifest.partition is None:
        return None
    seed = "" if manifest.seed is None else f", seed {manifest.seed}"
    return f"{spelled_out(manifest.partition)}{seed}"


def by_shard(shards: Sequence[Shard]) -> dict[str, list[Film]]:
    """Return films for each shard's row, evenly spread over the shard."""
    rows = {}
    for shard in shards:
        chosen = np.linspace(0, len(shard) - 1, min(FILMS, len(shard))).astype(int)
        rows[shard.path.resolve().name] = _films(shard, chosen.tolist())
    return rows


def by_finding(shard: Shard) -> dict[str, list[Film]]:
    """Return, for each finding's row, the films with the fewest other findings."""
    if shard.labels is None:
        return by_shard([shard])
    positive = shard.labels == 1
    others = positive.sum(axis=1)
    shown = dict(zip(FINDINGS, positive.T, strict=True))
    shown[NO_FINDING] = (shard.labels == 0).all(axis=1)
    rows = {}
    for name, mask in shown.items():
        chosen = np.flatnonzero(mask)
        if len(chosen):
            least = chosen[np.argsort(others[chosen], kind="stable")[:FILMS]]
            rows[name] = _films(shard, least.tolist())
    return rows


def _films(shard: Shard, rows: Sequence[int]) -> list[Film]:
    return [Film(shard.images[row], _caption(shard, row)) for row in rows]


def _caption(shard: Shard, row: int) -> str:
    """Return an image's findings, shortened to the width of a film."""
    if shard.labels is None:
        return ""
    labels = shard.labels[row]
    names = [FINDINGS[i].replace("_", " ") for i in np.flatnonzero(labels == 1)]
    text = ", ".join(names) or ("unknown" if UNKNOWN in labels else NO_FINDING)
    fits = SMALL.getlength(text) <= CELL - 2
    return text if fits else f"{names[0]} and {len(names) - 1} more"


def contact_sheet(rows: dict[str, list[Film]]) -> Image.Image:
    """Return a picture with a row of up to 8 captioned films for each name."""
    height = CELL + CAPTION
    sheet = Image.new("L", (MARGIN + FILMS * (CELL + 2), len(rows) * height), 255)
    pen = ImageDraw.Draw(sheet)
    title = ImageFont.load_default(14)
    for row, (name, films) in enumerate(rows.items()):
        top = row * height
        pen.text((6, top + CELL // 2 - 8), name.replace("_", " ")[:20], fill=0, font=title)
        for column, film in enumerate(films):
            left = MARGIN + column * (CELL + 2)
            cell = Image.fromarray(film.pixels).resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (left, top))
            pen.text((left + 2, top + CELL), film.caption, fill=0, font=SMALL)
    return sheet
