"""``flower-data check``: finds problems that would spoil a run, within and between shards."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from tqdm import tqdm

from common.errors import BadInput
from common.findings import FINDINGS, UNKNOWN, count_by_finding
from common.runtime.cli import Settings, parse
from common.runtime.memory import free_memory, training_memory
from common.shard import Shard, find_shards, open_shard
from radiographs.inspect.pictures import Picture, alike, look_at, nearly_same
from radiographs.inspect.report import (
    KEPT,
    Kind,
    Level,
    Needs,
    Place,
    Problem,
    Report,
    ShardFacts,
    lines_of,
)

TEST = "test"
"""The split of images that no model may have been trained on."""

FEW = 10
"""With fewer positive or negative images, the 10 % validation split often lacks one."""


class CheckSettings(Settings):
    """Find problems that would spoil a run; names no patient. Exit code 2 if there is an error."""

    model_config = SettingsConfigDict(
        env_prefix="FLOWER_DATA_",
        cli_prog_name="flower-data check",
        cli_shortcuts={"as-json": "json"},
    )

    shards: CliPositionalArg[list[Path]] = Field(
        description="shards, or folders of shards; several are compared with each other"
    )
    as_json: bool = Field(False, description="print the report as JSON")
    strict: bool = Field(False, description="treat warnings as errors")


class Film(NamedTuple):
    """A film in one of the shards, with its features."""

    shard: Shard
    row: int
    picture: Picture

    @property
    def tests(self) -> bool:
        """Whether it is a test image."""
        return self.shard.entries[self.row].split == TEST

    @property
    def place(self) -> Place:
        """Shard and row; never a name."""
        return Place(shard=str(self.shard.path), row=self.row)


def command(arguments: Sequence[str]) -> None:
    """Run the command.

    Raises:
        BadInput: There is no shard, or an error was found.
    """
    settings = parse(CheckSettings, arguments)
    report = check([path for given in settings.shards for path in find_shards(given)])
    print(report.model_dump_json(indent=2) if settings.as_json else "\n".join(lines_of(report)))
    errors = sum(problem.level == "error" or settings.strict for problem in report.problems)
    if errors:
        raise BadInput(f"{errors} problems found; the list is above")


def check(paths: Sequence[Path]) -> Report:
    """Check shards, each by itself and against the others."""
    shards: list[Shard] = []
    problems: list[Problem] = []
    for path in dict.fromkeys(path.resolve() for path in paths):
        try:
            shards.append(open_shard(path))
        except BadInput as error:
            problems.append(Problem(level="error", kind="damaged", text=str(error)))
    films = list(_films(shards))
    for shard in shards:
        problems += _label_problems(shard)
    problems += _picture_problems(films)
    problems += _duplicates(films)
    problems += _patient_problems(shards)
    needs = _needs(shards) if shards else None
    if needs is not None:
        problems += _short_of(needs)
    return Report(shards=[_facts(shard) for shard in shards], needs=needs, problems=problems)


def _films(shards: Sequence[Shard]) -> Iterator[Film]:
    with tqdm(
        total=sum(map(len, shards)), unit=" images", desc="checking", disable=None
    ) as progress:
        for shard in shards:
            for row in range(len(shard)):
                yield Film(shard, row, look_at(shard.images[row]))
                progress.update()


def _facts(shard: Shard) -> ShardFacts:
    return ShardFacts(
        path=str(shard.path),
        images=len(shard),
        patients=len({entry.patient for entry in shard.entries}),
        size=shard.manifest.size,
        bytes=_bytes(shard),
        counts=None if shard.labels is None else count_by_finding(shard.labels == 1),
        known=None if shard.labels is None else count_by_finding(shard.labels != UNKNOWN),
    )


def _label_problems(shard: Shard) -> Iterator[Problem]:
    if shard.labels is None:
        return
    idle = int((shard.labels == UNKNOWN).all(axis=1).sum())
    if idle:
        text = f"{shard.path}: {idle} images have no known label: nothing trains on them"
        yield Problem(level="warning", kind="labels", text=text, count=idle)
    if not (shard.labels == 1).any():
        yield Problem(
            level="warning", kind="labels", text=f"{shard.path}: no image has any finding"
        )
        return
    positives, negatives = count_by_finding(shard.labels == 1), count_by_finding(shard.labels == 0)
    if unknown := [f for f in FINDINGS if positives[f] + negatives[f] == 0]:
        yield Problem(
            level="warning",
            kind="few",
            text=f"{shard.path}: no AUC, unknown in all images, for {', '.join(unknown)}",
        )
    least = {f: min(positives[f], negatives[f]) for f in FINDINGS if f not in unknown}
    if none := [finding for finding, count in least.items() if count == 0]:
        yield Problem(
            level="warning",
            kind="few",
            text=f"{shard.path}: no AUC, all images alike, for {', '.join(none)}",
        )
    if few := [f"{finding} {count}" for finding, count in least.items() if 0 < count < FEW]:
        yield Problem(
            level="warning",
            kind="few",
            text=f"{shard.path}: too few images for an AUC to mean much: {', '.join(few)}",
        )


def _picture_problems(films: Sequence[Film]) -> Iterator[Problem]:
    if blank := [[film.place] for film in films if film.picture.blank]:
        text = (
            "nothing can be seen on these; leave them out if a viewer shows nothing on their files "
            "either"
        )
        yield _problem("error", "blank", text, blank)
    if dull := [[film.place] for film in films if film.picture.dull]:
        text = (
            "these use under a quarter of the grey levels or of their range, or two levels for "
            "most of their pixels; likely their files declare more bits than their pixels have, or "
            "a window that does not fit: mend the files and make the shard again"
        )
        yield _problem("warning", "dull", text, dull)
    if inverted := [[film.place] for film in films if film.picture.inverted]:
        text = "air seems white on these films; check whether they are inverted"
        yield _problem("warning", "inverted", text, inverted)


def _duplicates(films: Sequence[Film]) -> Iterator[Problem]:
    """Find exact and near duplicates."""
    seen = [film for film in films if not film.picture.blank]
    copies: dict[bytes, list[Film]] = defaultdict(list)
    for film in seen:
        copies[film.picture.digest].append(film)
    groups = [group for group in copies.values() if len(group) > 1]
    yield from _classify(groups, exact=True)
    firsts = [group[0] for group in copies.values()]
    if firsts:
        coarse = np.stack([film.picture.coarse for film in firsts])
        pairs = ((firsts[i], firsts[j]) for i, j in alike(coarse))
        yield from _classify(
            [[a, b] for a, b in pairs if nearly_same(a.shard.images[a.row], b.shard.images[b.row])],
            exact=False,
        )


def _classify(groups: Sequence[list[Film]], exact: bool) -> Iterator[Problem]:
    """Classify copies: between training and test, between shards, or within one shard."""
    what = "the same film" if exact else "nearly the same film"
    sorts: dict[Kind, tuple[Level, str]] = {
        "leakage": ("error" if exact else "warning",
                    f"{what} is in training and in the test: test scores would be too high"),
        "shared": ("warning", f"{what} is in two shards"),
        "duplicate" if exact else "near-duplicate": ("warning", f"{what} is in a shard twice"),
    }  # fmt: skip
    found: dict[Kind, list[list[Film]]] = defaultdict(list)
    for group in groups:
        if len({film.tests for film in group}) > 1:
            found["leakage"].append(group)
        elif len({film.shard.path for film in group}) > 1:
            found["shared"].append(group)
        else:
            found["duplicate" if exact else "near-duplicate"].append(group)
    for kind, (level, text) in sorts.items():
        if kind in found:
            yield _problem(level, kind, text, _places(found[kind]))
    if exact and (conflicts := [group for group in groups if _labels_differ(group)]):
        text = "the same film has different labels; correct the wrong ones"
        yield _problem("error", "contradiction", text, _places(conflicts))


def _labels_differ(group: Sequence[Film]) -> bool:
    """Return whether copies of a film have a finding and do not have it; unknown is neither."""
    labels = [film.shard.labels[film.row] for film in group if film.shard.labels is not None]
    return any({0, 1} <= set(finding) for finding in zip(*labels, strict=True))


def _patient_problems(shards: Sequence[Shard]) -> Iterator[Problem]:
    """Find patients who are in both training and test, or at several hospitals."""
    held: dict[str, set[tuple[Path, bool]]] = defaultdict(set)
    for shard in shards:
        for entry in shard.entries:
            held[entry.patient].add((shard.path, entry.split == TEST))
    leaking = sum(len({tests for _, tests in sides}) > 1 for sides in held.values())
    if leaking:
        text = f"{leaking} patients are in training and in the test: test scores would be too high"
        yield Problem(level="error", kind="leakage", text=text, count=leaking)
    pairs: dict[tuple[Path, Path], int] = defaultdict(int)
    for sides in held.values():
        paths = sorted({path for path, tests in sides if not tests})
        for i, one in enumerate(paths):
            for other in paths[i + 1 :]:
                pairs[one, other] += 1
    if pairs:
        sources = {shard.path: shard.manifest.source for shard in shards}
        (one, other), most = max(pairs.items(), key=lambda item: item[1])
        text = (
            f"{sum(pairs.values())} patients are shared by {len(pairs)} pairs of shards, most by "
            f"{one} and {other} ({most}){_apart({sources[one], sources[other]})}"
        )
        yield Problem(level="warning", kind="patients", text=text, count=sum(pairs.values()))


def _apart(sources: set[str]) -> str:
    """Return what ends it that two shards of these sources share patients."""
    if sources == {"ChestX-ray14"}:
        return "; flower-data chestxray14 --group-by patient keeps them apart"
    if all(source.startswith("site ") for source in sources):  # of one hospital: of one salt
        return "; flower-data join makes them one"
    return ""


def _needs(shards: Sequence[Shard]) -> Needs:
    return Needs(
        disk=sum(map(_bytes, shards)),
        disk_free=shutil.disk_usage(shards[0].path).free,
        memory=training_memory(max(shard.manifest.size for shard in shards)),
        memory_free=free_memory(),
    )


def _short_of(needs: Needs) -> Iterator[Problem]:
    if needs.memory > needs.memory_free:
        text = "training on the CPU may need more memory than is free"
        yield Problem(level="warning", kind="memory", text=text)
    if needs.disk_free < needs.disk // 10:
        yield Problem(level="warning", kind="disk", text="the disk is nearly full")


def _bytes(shard: Shard) -> int:
    return sum(file.stat().st_size for file in shard.path.iterdir())


def _problem(level: Level, kind: Kind, text: str, examples: Sequence[list[Place]]) -> Problem:
    many = f"{len(examples)} times: {text}" if len(examples) > 1 else text
    return Problem(
        level=level, kind=kind, text=many, count=len(examples), examples=list(examples[:KEPT])
    )


def _places(groups: Iterable[Sequence[Film]]) -> list[list[Place]]:
    return [[film.place for film in group] for group in groups]
