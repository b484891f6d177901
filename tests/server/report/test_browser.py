"""The page in a real browser: on a phone and on a desk, in light and dark."""

from pathlib import Path

from server.report.page import chapters_of, page_of, read_runs
from tests.support.chromium import Page, chromium, needs_chromium
from tests.support.hospitals import lost
from tests.support.reports import recorded_run

LONG = "a-name-as-long-as-people-choose-when-nobody-stops-them-" * 2

INK = "getComputedStyle(document.querySelector('figure text')).fill"
PAPER = "getComputedStyle(document.body).backgroundColor"
SMALLEST = """Math.min(...[...document.querySelectorAll('figure svg[role=img] text')].map(
    text => text.getBoundingClientRect().height))"""


def show(page: Page, url: str, width: int, scheme: str) -> None:
    page.send(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=width < 600,
    )
    dark = {"name": "prefers-color-scheme", "value": scheme}
    page.send("Emulation.setEmulatedMedia", features=[dark])
    page.open(url)


@needs_chromium
def test_the_page_fits_a_phone_and_a_desk_in_light_and_dark(tmp_path: Path) -> None:
    runs = [
        recorded_run(tmp_path / "a", {"hospital-01": lost}, rounds=2, name=LONG),
        recorded_run(tmp_path / "b", rounds=1, run_id="b" * 12),
    ]
    file = tmp_path / "report.html"
    file.write_text(page_of(chapters_of(read_runs(runs))))
    with chromium() as page:
        for width in (360, 1280):
            show(page, file.as_uri(), width, "light")
            assert page.run("document.documentElement.scrollWidth") <= width
            page.run("document.querySelectorAll('details').forEach(it => it.open = true)")
            assert page.run("document.documentElement.scrollWidth") <= width
            assert page.run(SMALLEST) > 8
            assert page.run(INK) == "rgb(26, 26, 26)"
            assert page.run(PAPER) == "rgb(255, 255, 255)"
            show(page, file.as_uri(), width, "dark")
            assert page.run(INK) == "rgb(230, 230, 230)"
            assert page.run(PAPER) == "rgb(22, 25, 29)"
        assert page.problems == []
