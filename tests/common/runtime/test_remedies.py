"""Each remedy that all commands print alike is followed here, and helps."""

import os
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from client.cli import ClientSettings
from common.errors import BadInput
from common.runtime.cli import parse
from common.runtime.files import read_lines
from common.runtime.folders import resumable_folder, whole_folder
from tests.support.remedies import Place, Remedy, Step, each, instead, mended, nothing


@pytest.fixture
def place(tmp_path: Path) -> Place:
    path = tmp_path / "place"
    (path / "taken").mkdir(parents=True)
    (path / "taken" / "lines.jsonl").write_text('{"number": 1}\n')
    return Place(path)


def makes(name: str) -> Step:
    def step(p: Place) -> None:
        with whole_folder(p / name) as folder:
            (folder / "file").touch()

    return step


def resumes(name: str, plan: str) -> Step:
    def step(p: Place) -> None:
        with resumable_folder(p / name, plan) as folder:
            (folder / "file").touch()

    return step


def breaks_off(p: Place) -> None:
    with pytest.raises(KeyboardInterrupt), resumable_folder(p / "new", "one plan"):
        raise KeyboardInterrupt


def is_set(variable: str) -> Step:
    """Return a step: a command is started with a variable; a warning is an error."""

    def step(_: Place) -> None:
        with patch.dict(os.environ, {variable: "1"}), redirect_stderr(StringIO()) as told:
            parse(ClientSettings, ["--server", "a:1", "--data", "x", "--insecure"])
        if told.getvalue():
            raise BadInput(told.getvalue())

    return step


def removes(name: str) -> Step:
    return lambda p: shutil.rmtree(p / name)


@each(
    instead("choose another name or remove it", makes("taken"), makes("new")),
    mended("choose another name or remove it", nothing, makes("taken"), removes("taken")),
    instead(
        "continue with those", resumes("new", "another"), resumes("new", "one plan"), breaks_off
    ),
    mended(
        "or remove that folder to start again",
        breaks_off,
        resumes("new", "another"),
        removes(".new.partial"),
    ),
    mended(
        "restore it from a backup",
        lambda p: p.spoil("taken/lines.jsonl"),
        lambda p: read_lines(p / "taken" / "lines.jsonl"),
        lambda p: p.restore("taken/lines.jsonl"),
    ),
    instead(
        "did you mean FLOWER_CLIENT_SLOTS?",
        is_set("FLOWER_CLIENT_SLOT"),
        is_set("FLOWER_CLIENT_SLOTS"),
    ),
)
def test_the_remedy_that_is_printed_helps(place: Place, remedy: Remedy) -> None:
    remedy.helps(place)
