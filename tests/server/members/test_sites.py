import logging
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.errors import BadInput
from server.members.sites import Site, SiteList, read_sites, write_sites

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def site(expires: datetime = NOW + DAY, revoked: datetime | None = None) -> Site:
    fingerprint = secrets.token_hex(32)
    return Site(certificate=fingerprint, added=NOW - DAY, expires=expires, revoked=revoked)


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
    listed = SiteList(path)
    assert listed.refusal("good", NOW) is None
    assert listed.refusal("good", NOW + DAY) == "the certificate of good expired on 2026-03-02"
    assert listed.refusal("late", NOW) == "the certificate of late expired on 2026-03-01"
    assert listed.refusal("late", NOW - timedelta(seconds=1)) is None
    assert listed.refusal("out", NOW) == "out was revoked on 2026-02-27"
    assert listed.refusal("both", NOW) == "both was revoked on 2026-02-27"
    assert listed.refusal("Good", NOW) == "Good is not on the list of hospitals"


def test_a_certificate_that_is_about_to_expire_is_told_once_a_day(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_sites(path, {"soon": site(expires=NOW + 31 * DAY), "out": site(revoked=NOW)})
    listed = SiteList(path)
    for hours in range(36):  # asked at each reply
        listed.refusal("soon", NOW + timedelta(hours=hours))
    listed.refusal("soon", NOW + 40 * DAY)
    assert caplog.messages == [
        "soon: the certificate expires on 2026-04-01, in 30 days; flower-provision renew FOLDER "
        "soon makes a new one",
        "soon: the certificate expired on 2026-04-01; flower-provision renew FOLDER soon makes a "
        "new one",
    ]


def test_a_revocation_is_seen_without_a_restart_and_only_then_is_the_file_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reads = []

    def count(file: Path) -> dict[str, Site]:
        reads.append(file)
        return read_sites(file)

    monkeypatch.setattr("server.members.sites.read_sites", count)
    listed = SiteList(path)
    assert listed.refusal("north", NOW) is None
    assert listed.refusal("north", NOW) is None
    assert len(reads) == 1
    sites = read_sites(path)
    write_sites(path, {**sites, "north": sites["north"].model_copy(update={"revoked": NOW})})
    assert listed.refusal("north", NOW) == "north was revoked on 2026-03-01"
    assert listed.refusal("coast", NOW) is None
    assert len(reads) == 2
    said = [each for each in caplog.messages if "the certificate expires" not in each]
    assert said == [f"{path}: read again, {len(sites)} hospitals; revoked: north"]


def test_a_change_that_keeps_time_and_size_is_seen(path: Path) -> None:
    listed, status, sites = SiteList(path), path.stat(), read_sites(path)
    write_sites(path, {"coast": sites["north"], "north": sites["coast"]})
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert listed.lookup("north") == sites["coast"]


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
    listed, good = SiteList(path), path.read_bytes()
    known = listed.lookup("north")
    for changes in (1, 2):
        spoil(path)
        for _ in range(3):
            assert listed.lookup("north") == known
            assert listed.lookup("west") is None
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == changes
        assert f"{path}: {what}" in warnings[-1].getMessage()
        path.write_bytes(good)
        assert listed.lookup("north") == known
    write_sites(path, {"west": site()})
    assert listed.lookup("north") is None
    assert listed.lookup("west") is not None


def test_a_list_that_is_moved_away_twice_is_warned_of_twice(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = SiteList(path)
    for changes in (1, 2):
        away = path.rename(path.with_name("away"))
        listed.lookup("north")
        away.rename(path)
        listed.lookup("north")
        assert len(caplog.records) == changes


def test_a_list_that_could_not_be_read_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed = SiteList(path)
    write_sites(path, {"west": site()})

    def fail(file: Path) -> dict[str, Site]:
        raise BadInput(f"{file}: cannot be read: Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("server.members.sites.read_sites", fail)
        assert listed.lookup("west") is None
        assert listed.lookup("north") is not None
    assert listed.lookup("west") is not None
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


GOOD = '"added": "2026-03-01T12:00:00Z", "expires": "2027-03-01T12:00:00Z", "revoked": null'
PRINT = f'"certificate": "{"a" * 64}"'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not a list of hospitals: Invalid JSON"),
        (
            '{"version": 1, "sites": {}}',
            "should be 2; make the federation with",
        ),
        ('{"version": 2, "sites": {}, "more": 0}', "more: Extra inputs"),
        (f'{{"version": 2, "sites": {{"../x": {{{PRINT}, {GOOD}}}}}}}', r"sites\.\.\./x"),
        (f'{{"version": 2, "sites": {{"a": {{"certificate": "aa", {GOOD}}}}}}}', "should match"),
        (
            f'{{"version": 2, "sites": {{"a": {{{PRINT}, "b": 0, {GOOD}}}}}}}',
            r"sites\.a\.b: Extra",
        ),
        (
            f'{{"version": 2, "sites": {{"a": {{{PRINT}}}}}}}',
            r"sites\.a\.added: Field required",
        ),
        (
            f'{{"version": 2, "sites": {{"a": {{{PRINT}, {GOOD.replace("00Z", "00")}}}}}}}',
            r"sites\.a\.added: .*timezone",
        ),
    ],
)
def test_a_broken_list_is_refused_at_the_start_and_named(path: Path, text: str, what: str) -> None:
    path.write_text(text)
    with pytest.raises(BadInput, match=what) as refused:
        SiteList(path)
    assert str(refused.value).startswith(f"{path}: not a list of hospitals: ")
    assert "\n" not in str(refused.value)


def test_a_missing_list_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"sites\.json: cannot be read: No such file"):
        SiteList(tmp_path / "sites.json")


def test_times_are_utc_whatever_zone_they_were_written_in() -> None:
    local = datetime.fromisoformat("2026-03-02T01:00:00+13:00")
    assert site(expires=local).expires == NOW
    assert site(expires=local).expires.tzinfo is UTC
    with pytest.raises(ValidationError, match="timezone"):
        site(expires=datetime(2026, 3, 1))
