"""The page to try a model, over real HTTP and in a real browser."""

import base64
import csv
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from common.findings import FINDINGS
from experiments.launch.local import free_port
from predict.overlay import SHOWN, STRIP
from predict.page import BYTES, LIMIT_MB, own_names
from tests.support.chromium import chromium, needs_chromium
from tests.support.commands import assert_one_line, run
from tests.support.films import film
from tests.support.predicting import write_model
from tests.support.waiting import wait_until

SERVE = "from predict.cli import main; main()"


class Served(NamedTuple):
    """A running page.

    Attributes:
        process: Its process.
        port: Of 127.0.0.1.
        folder: The folder that it runs in, with the model and films.
    """

    process: subprocess.Popen[str]
    port: int
    folder: Path

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        response = connection.getresponse()
        answer = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return answer

    def predict(self, body: bytes, query: str = "") -> tuple[int, dict[str, Any]]:
        status, _, answer = self.ask("POST", f"/predict{query}", body, Content_Type=BYTES)
        return status, json.loads(answer)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 48), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.full((64, 48), 90, np.uint8)).save(folder / "dull.png")
    pixels = rng.integers(0, 4096, (60, 50), np.uint16)
    film(pixels).save_as(folder / "a.dcm", enforce_file_format=True)
    film(pixels, ViewPosition="LL").save_as(folder / "side.dcm", enforce_file_format=True)
    write_model(folder / "final.pt")
    port = free_port()
    given = ["final.pt", "--serve", f"127.0.0.1:{port}", "--size", "64", "--device", "cpu"]
    (folder / "tmp").mkdir()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *given],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        wait_until(lambda: is_open(port) or process.poll() is not None, 200)
        assert process.poll() is None, (folder / "log").read_text()
        yield Served(process, port, folder)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", ["a.png", "a.dcm"])
def test_the_page_says_what_the_command_says(page: Served, name: str, tmp_path: Path) -> None:
    status, answer = page.predict((page.folder / name).read_bytes())
    assert status == 200
    model, maps = page.folder / "final.pt", tmp_path / "maps"
    given = (model, page.folder / name, "--size", 64, "--device", "cpu", "--heatmap", maps)
    table = run("flower-predict", *given).stdout
    (row,) = csv.DictReader(io.StringIO(table))
    assert answer["probabilities"] == {finding: float(row[finding]) for finding in FINDINGS}
    assert answer["finding"] == max(FINDINGS, key=lambda finding: float(row[finding]))
    assert answer["note"] == ""
    shown = picture(answer)
    assert shown.size == (SHOWN, SHOWN + STRIP)
    assert shown.tobytes() == Image.open(row["heatmap"]).tobytes()
    _, other = page.predict((page.folder / name).read_bytes(), "?finding=Hernia")
    assert other["finding"] == "Hernia"
    assert picture(other).tobytes() != shown.tobytes()


def picture(answer: dict[str, Any]) -> Image.Image:
    prefix, _, image = answer["heatmap"].partition(",")
    assert prefix == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(image)))


def test_what_is_no_film_is_answered_with_a_sentence(page: Served) -> None:
    lateral = (page.folder / "side.dcm").read_bytes()
    assert page.predict(lateral) == (
        422,
        {"error": "The file is refused: view 'LL', frontal is wanted."},
    )
    status, answer = page.predict(b"no film")
    assert (status, answer["error"]) == (
        422,
        "The file is refused: neither DICOM, PNG nor JPEG.",
    )
    assert page.predict(b"") == (400, {"error": "The file is empty."})
    _, dull = page.predict((page.folder / "dull.png").read_bytes())
    assert dull["note"].startswith("The model sees little on this film; likely cause: ")
    assert page.predict(b"x", "?finding=Cold")[0] == 400


def test_large_and_odd_requests_end_and_leave_the_page_at_work(page: Served) -> None:
    def raw(request: str) -> str:
        with socket.create_connection(("127.0.0.1", page.port), timeout=30) as connection:
            connection.sendall(request.encode())
            return connection.makefile("rb").read().decode(errors="replace")

    host = f"Host: 127.0.0.1:{page.port}\r\n"
    post = f"POST /predict HTTP/1.1\r\n{host}Content-Type: {BYTES}\r\n"
    large = raw(f"{post}Content-Length: {(LIMIT_MB << 20) + 1}\r\n\r\n")
    assert " 413 " in large
    assert f"The file is larger than {LIMIT_MB} MB." in large
    assert " 411 " in raw(f"{post}Transfer-Encoding: chunked\r\n\r\n")
    assert " 411 " in raw(f"{post}Content-Length: -5\r\n\r\n")
    assert "The request is not understood" in raw(f"BREW / HTTP/1.1\r\n{host}\r\n")
    with socket.create_connection(("127.0.0.1", page.port)) as connection:
        connection.sendall(f"{post}Content-Length: 1000\r\n\r\nhalf a film".encode())
    assert page.ask("GET", "/nothing")[0] == 404
    assert page.predict((page.folder / "a.png").read_bytes())[0] == 200
    assert "Traceback" not in (page.folder / "log").read_text()


def test_pages_of_other_sites_cannot_use_it(page: Served) -> None:
    film_of = (page.folder / "a.png").read_bytes()
    evil = {"Host": "evil.example", "Content_Type": BYTES}
    assert page.ask("POST", "/predict", film_of, **evil)[0] == 403
    assert page.ask("GET", "/", None, Host="evil.example")[0] == 403
    # What a form or a script elsewhere may send unasked has one of these types.
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        assert page.ask("POST", "/predict", film_of, Content_Type=kind)[0] == 415
    assert page.ask("OPTIONS", "/predict")[0] == 501
    status, headers, _ = page.ask("GET", "/")
    assert status == 200
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_page_on_the_port_that_clients_leave_out_is_found() -> None:
    assert own_names("10.0.0.9:80") >= {"10.0.0.9", "10.0.0.9:80", "localhost", "[::1]"}
    assert own_names("10.0.0.9:8000") >= {"10.0.0.9:8000", "localhost:8000"}
    assert "localhost" not in own_names("10.0.0.9:8000")


def test_nothing_is_stored_or_logged(page: Served) -> None:
    def changed() -> list[int]:
        # A folder's time changes also with a file that is removed at once.
        return [path.stat().st_mtime_ns for path in (page.folder, page.folder / "tmp")]

    def descriptors() -> int:
        return len(list(Path(f"/proc/{page.process.pid}/fd").iterdir()))

    page.predict((page.folder / "a.dcm").read_bytes())  # libraries try their folder once
    before, log, opened = changed(), (page.folder / "log").read_text(), descriptors()
    for _ in range(3):
        page.predict((page.folder / "a.dcm").read_bytes())
        page.predict((page.folder / "side.dcm").read_bytes())
    assert changed() == before
    assert (page.folder / "log").read_text() == log
    wait_until(lambda: descriptors() <= opened)


@needs_chromium
def test_in_a_browser(page: Served, tmp_path: Path) -> None:
    _, expected = page.predict((page.folder / "a.dcm").read_bytes())
    with chromium() as browser:
        browser.open(f"http://127.0.0.1:{page.port}/")
        assert "Not a medical device" in browser.run("document.body.innerText")
        browser.choose_file("#film", page.folder / "a.dcm")
        browser.until("!document.getElementById('result').hidden")
        shown = browser.run("document.getElementById('findings').innerText")
        ranked = sorted(expected["probabilities"].items(), key=lambda item: -item[1])
        cells = [cell.strip() for cell in shown.replace("\n", "\t").split("\t") if cell.strip()]
        assert cells == [
            text for name, p in ranked for text in (name.replace("_", " "), f"{p:.3f}")
        ]
        assert browser.run("document.getElementById('heatmap').src") == expected["heatmap"]
        browser.until("document.getElementById('heatmap').naturalWidth > 0")
        browser.run("[...document.querySelectorAll('.finding')].at(-1).click()")
        last = f"Heat map of {ranked[-1][0].replace('_', ' ')} over the film"
        browser.until(f"document.getElementById('heatmap').alt === {json.dumps(last)}")
        picture_of = browser.send("Page.captureScreenshot")["data"]
        (tmp_path / "page.png").write_bytes(base64.b64decode(picture_of))
        browser.choose_file("#film", page.folder / "side.dcm")
        browser.until("document.getElementById('message').textContent.includes('refused')")
        assert browser.run("document.getElementById('result').hidden") is True
        refused = "Failed to load resource: the server responded with a status of 422"
        assert all(refused in problem or "favicon" in problem or "404" in problem
                   for problem in browser.problems), browser.problems  # fmt: skip
    with Image.open(tmp_path / "page.png") as screen:
        assert np.asarray(screen.convert("L")).std() > 10


def test_a_signal_ends_it_cleanly(page: Served, tmp_path: Path) -> None:
    port = free_port()
    given = [str(page.folder / "final.pt"), "--serve", f"localhost:{port}", "--size", "64"]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, *given], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stderr is not None
    assert any(f"http://localhost:{port} shows the page" in line for line in process.stderr)
    open_connection = socket.create_connection(("127.0.0.1", port))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    open_connection.close()
    assert process.returncode == 143
    assert "stopped by SIGTERM" in errors
    assert "Traceback" not in errors


def test_bad_addresses_are_one_line(page: Served) -> None:
    model = page.folder / "final.pt"
    for address in ("0.0.0.0:8000", "example.org:8000", "[::]:8000"):
        result = run("flower-predict", model, "--serve", address)
        assert_one_line(result, 2, f"--serve {address}: other machines", "--serve-anyone")
    taken = run("flower-predict", model, "--serve", f"127.0.0.1:{page.port}")
    in_use = f"--serve 127.0.0.1:{page.port}: Address already in use; choose another port or end"
    assert_one_line(taken, 2, in_use)
    elsewhere = run("flower-predict", model, "--serve", "192.0.2.1:8000", "--serve-anyone")
    assert_one_line(elsewhere, 2, "--serve 192.0.2.1:8000: ", "; give an address of this machine")
