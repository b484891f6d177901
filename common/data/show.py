"""``flower-data show``: what is in a shard, or in a folder of shards, at a glance."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.cli import Settings, parse
from common.data.shard import MANIFEST, Bytes, Shard, open_shard
from common.errors import BadInput
from common.files import write_whole
from common.findings import FINDINGS, NO_FINDING

FILMS = 8
"""Films in a row of the contact sheet."""

CELL = 128
"""Pixels along each side of a film on the contact sheet."""

MARGIN = 150
"""Pixels for the names beside the rows."""

SHARDS_ABREAST = 6


class ShowSettings(Settings):
    """Print how many images show each finding, and draw a contact sheet."""

    model_config = SettingsConfigDict(env_prefix="FLOWER_DATA_", cli_prog_name="flower-data show")

    data: CliPositionalArg[Path] = Field(description="a shard, or a folder of shards")
    out: Path | None = Field(None, description="new PNG file for the contact sheet")


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: There is no shard, one is damaged, or --out is taken.
    """
    settings = parse(ShowSettings, arguments)
    if settings.out is not None and settings.out.exists():
        raise BadInput(f"{settings.out}: is there already; choose another --out or remove it")
    shards = _shards(settings.data)
    for first in range(0, len(shards), SHARDS_ABREAST):
        print("\n".join(table(shards[first : first + SHARDS_ABREAST])), end="\n\n")
    if settings.out is not None:
        sheet = contact_sheet(by_finding(shards[0]) if len(shards) == 1 else by_shard(shards))
        write_whole(settings.out, lambda file: sheet.save(file, "PNG"))
        print(f"contact sheet: {settings.out}")


def _shards(path: Path) -> list[Shard]:
    if (path / MANIFEST).is_file():
        return [open_shard(path)]
    shards = [open_shard(manifest.parent) for manifest in sorted(path.glob(f"*/{MANIFEST}"))]
    if not shards:
        raise BadInput(f"{path}: no shard here or one folder below; make some with flower-data")
    return shards


def table(shards: Sequence[Shard]) -> Iterator[str]:
    """Yield the lines of a table: images with each finding and their share, by shard."""

    def line(title: str, cells: Sequence[str]) -> str:
        return f"{title:<20}" + "".join(f"{cell:>13}" for cell in cells)

    yield line("", [shard.path.resolve().name[:12] for shard in shards])
    yield line("images", [str(len(shard)) for shard in shards])
    yield line("patients", [str(len({entry.patient for entry in s.entries})) for s in shards])
    yield line("pixels", [f"{shard.manifest.size} x {shard.manifest.size}" for shard in shards])
    counts = [_counts(shard) for shard in shards]
    for i, name in enumerate((*FINDINGS, NO_FINDING)):
        yield line(name, [column[i] for column in counts])


def _counts(shard: Shard) -> list[str]:
    """Return the cells of a shard's column: the findings, and none of them."""
    if shard.labels is None:
        return ["-"] * (len(FINDINGS) + 1)
    counts = [*shard.labels.sum(axis=0, dtype=int), np.sum(~shard.labels.any(axis=1))]
    return [f"{count} {100 * count / len(shard):4.1f} %" for count in counts]


def by_shard(shards: Sequence[Shard]) -> dict[str, Bytes]:
    """Return films for each shard's row: spread evenly over it."""
    rows = {}
    for shard in shards:
        chosen = np.unique(np.linspace(0, len(shard) - 1, FILMS).astype(int))
        rows[shard.path.resolve().name] = shard.images[chosen]
    return rows


def by_finding(shard: Shard) -> dict[str, Bytes]:
    """Return films for each finding's row: those that show little else."""
    if shard.labels is None:
        return by_shard([shard])
    others = shard.labels.sum(1)
    shown = {finding: shard.labels[:, i] > 0 for i, finding in enumerate(FINDINGS)}
    shown[NO_FINDING] = others == 0
    rows = {}
    for name, mask in shown.items():
        chosen = np.flatnonzero(mask)
        rows[name] = shard.images[chosen[np.argsort(others[chosen], kind="stable")[:FILMS]]]
    return rows


def contact_sheet(rows: dict[str, Bytes]) -> Image.Image:
    """Return a picture with a row of films for each name; films are uint8, up to 8 x S x S."""
    sheet = Image.new("L", (MARGIN + FILMS * (CELL + 2), len(rows) * (CELL + 2)), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (name, films) in enumerate(rows.items()):
        top = row * (CELL + 2)
        pen.text((6, top + CELL // 2 - 8), name.replace("_", " ")[:20], fill=0, font=font)
        for column, film in enumerate(films):
            cell = Image.fromarray(film).resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (MARGIN + column * (CELL + 2), top))
    return sheet
