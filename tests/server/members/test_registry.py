import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.errors import BadInput
from common.keys import new_key, public_text
from server.members.registry import RegisteredSite, Registry, read_sites, write_sites

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def site(expires: datetime = NOW + DAY, revoked: datetime | None = None) -> RegisteredSite:
    return RegisteredSite(
        key=public_text(new_key()), added=NOW - DAY, expires=expires, revoked=revoked
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_sites(tmp_path / "sites.json", {"north": site(), "coast": site()})
    return tmp_path / "sites.json"


def test_a_list_is_the_same_after_reading_and_sorted(tmp_path: Path) -> None:
    sites = {"b": site(), "a": site(revoked=NOW), "c": site(expires=NOW)}
    before = os.umask(0o077)
    try:
        write_sites(tmp_path / "sites.json", sites)
    finally:
        os.umask(before)
    assert read_sites(tmp_path / "sites.json") == sites
    assert list(read_sites(tmp_path / "sites.json")) == ["a", "b", "c"]
    assert (tmp_path / "sites.json").stat().st_mode & 0o777 == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["sites.json"]


def test_who_may_take_part_and_why_not(path: Path) -> None:
    write_sites(
        path,
        {
            "good": site(),
            "late": site(expires=NOW),
            "out": site(revoked=NOW - 2 * DAY),
            "both": site(expires=NOW - DAY, revoked=NOW - 2 * DAY),
        },
    )
    registry = Registry(path)
    assert registry.refusal("good", NOW) is None
    assert registry.refusal("good", NOW + DAY) == "the key of good expired on 2026-03-02"
    assert registry.refusal("late", NOW) == "the key of late expired on 2026-03-01"
    assert registry.refusal("late", NOW - timedelta(seconds=1)) is None
    assert registry.refusal("out", NOW) == "out was revoked on 2026-02-27"
    assert registry.refusal("both", NOW) == "both was revoked on 2026-02-27"
    assert registry.refusal("Good", NOW) == "Good is not on the list of hospitals"


def test_a_revocation_is_seen_without_a_restart_and_only_then_is_the_file_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def count(file: Path) -> dict[str, RegisteredSite]:
        reads.append(file)
        return read_sites(file)

    monkeypatch.setattr("server.members.registry.read_sites", count)
    registry = Registry(path)
    assert registry.refusal("north", NOW) is None
    assert registry.refusal("north", NOW) is None
    assert len(reads) == 1
    sites = read_sites(path)
    write_sites(path, {**sites, "north": sites["north"].model_copy(update={"revoked": NOW})})
    assert registry.refusal("north", NOW) == "north was revoked on 2026-03-01"
    assert registry.refusal("coast", NOW) is None
    assert len(reads) == 2


def test_a_change_that_keeps_time_and_size_is_seen(path: Path) -> None:
    registry, status, sites = Registry(path), path.stat(), read_sites(path)
    write_sites(path, {"coast": sites["north"], "north": sites["coast"]})
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert registry.lookup("north") == sites["coast"]


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda path: path.write_text("{"), "not a list of hospitals"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
    ],
    ids=["broken", "gone"],
)
def test_a_list_that_breaks_later_leaves_the_last_good_one_in_force(
    path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
    what: str,
) -> None:
    registry, good = Registry(path), path.read_bytes()
    known = registry.lookup("north")
    for changes in (1, 2):
        spoil(path)
        for _ in range(3):
            assert registry.lookup("north") == known
            assert registry.lookup("west") is None
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == changes
        assert f"{path}: {what}" in warnings[-1].getMessage()
        path.write_bytes(good)
        assert registry.lookup("north") == known
    write_sites(path, {"west": site()})
    assert registry.lookup("north") is None
    assert registry.lookup("west") is not None


def test_a_list_that_is_moved_away_twice_is_warned_of_twice(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(path)
    for changes in (1, 2):
        away = path.rename(path.with_name("away"))
        registry.lookup("north")
        away.rename(path)
        registry.lookup("north")
        assert len(caplog.records) == changes


def test_a_list_that_could_not_be_read_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(path)
    write_sites(path, {"west": site()})

    def fail(file: Path) -> dict[str, RegisteredSite]:
        raise BadInput(f"{file}: cannot be read: Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("server.members.registry.read_sites", fail)
        assert registry.lookup("west") is None
        assert registry.lookup("north") is not None
    assert registry.lookup("west") is not None
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


GOOD = '"added": "2026-03-01T12:00:00Z", "expires": "2027-03-01T12:00:00Z", "revoked": null'
KEY = '"key": "' + "A" * 43 + '="'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not a list of hospitals: Invalid JSON"),
        ('{"version": 2, "sites": {}}', "version: "),
        ('{"version": 1, "sites": {}, "more": 0}', "more: Extra inputs"),
        (f'{{"version": 1, "sites": {{"../x": {{{KEY}, {GOOD}}}}}}}', r"sites\.\.\./x"),
        (f'{{"version": 1, "sites": {{"a": {{"key": "AAAA", {GOOD}}}}}}}', "base64 of 32 bytes"),
        (f'{{"version": 1, "sites": {{"a": {{"key": "?", {GOOD}}}}}}}', r"sites\.a\.key: "),
        (f'{{"version": 1, "sites": {{"a": {{{KEY}, "b": 0, {GOOD}}}}}}}', r"sites\.a\.b: Extra"),
        (f'{{"version": 1, "sites": {{"a": {{{KEY}}}}}}}', r"sites\.a\.added: Field required"),
        (
            f'{{"version": 1, "sites": {{"a": {{{KEY}, {GOOD.replace("00Z", "00")}}}}}}}',
            r"sites\.a\.added: .*timezone",
        ),
    ],
)
def test_a_broken_list_is_refused_at_the_start_and_named(path: Path, text: str, what: str) -> None:
    path.write_text(text)
    with pytest.raises(BadInput, match=what) as refused:
        Registry(path)
    assert str(refused.value).startswith(f"{path}: not a list of hospitals: ")
    assert "\n" not in str(refused.value)


def test_a_missing_list_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"sites\.json: cannot be read: No such file"):
        Registry(tmp_path / "sites.json")


def test_times_are_utc_whatever_zone_they_were_written_in() -> None:
    local = datetime.fromisoformat("2026-03-02T01:00:00+13:00")
    assert site(expires=local).expires == NOW
    assert site(expires=local).expires.tzinfo is UTC
    with pytest.raises(ValidationError, match="timezone"):
        site(expires=datetime(2026, 3, 1))
