import threading

import pytest

from common.logs import log_to_stderr


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_in_a_thread_is_a_line_without_its_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def fail(message: str) -> None:
        raise ValueError(message)

    log_to_stderr(debug)
    for message in ("patient Jane Doe", "Cannot monitor channel state: Channel closed!"):
        thread = threading.Thread(target=fail, args=(message,))
        thread.start()
        thread.join()
    shown = capsys.readouterr().err
    assert ("Jane" in shown) == debug
    assert shown.count("a thread ended: ValueError") == (2 if debug else 1)
