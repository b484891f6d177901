from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.keys import new_key, public_text, sign
from server.members.admission import Admission
from server.members.registry import RegisteredSite, Registry, write_sites
from server.run.folder import RunFolder
from tests.support.messages import HELLO


@pytest.mark.parametrize(
    ("changes", "announced"),
    [({"examples": 1000}, None), ({"examples": 1001}, 1001), ({"validation": 1002}, 1002)],
)
def test_a_hospital_that_announces_too_many_images_is_refused(
    tmp_path: Path, changes: dict[str, int], announced: int | None
) -> None:
    folder = RunFolder.create(tmp_path / "run", {})
    admission = Admission("r", 0, HELLO.image_size, folder, max_examples=1000)
    refusal = admission.refusal(admission.greeting(), HELLO.model_copy(update=changes))
    if announced is None:
        assert refusal is None
    else:
        assert f"announces {announced} images, more than --max-examples 1000" in (refusal or "")


def test_a_signature_holds_for_this_server_and_this_greeting_alone(tmp_path: Path) -> None:
    key, today = new_key(), datetime.now(UTC)
    site = RegisteredSite(key=public_text(key), added=today, expires=today + timedelta(days=1))
    write_sites(tmp_path / "sites.json", {HELLO.site: site})
    folder = RunFolder.create(tmp_path / "run", {})
    admission = Admission(
        "r", 0, HELLO.image_size, folder, Registry(tmp_path / "sites.json"), [HELLO.server]
    )

    def refusal(**changes: object) -> str | None:
        greeting = admission.greeting()
        hello = HELLO.model_copy(update=changes)
        signature = sign(key, hello.signed_part(greeting))
        return admission.refusal(greeting, hello.model_copy(update={"signature": signature}))

    assert refusal() is None
    assert "another server, elsewhere" in (refusal(server="elsewhere") or "")
    assert "not on the list" in (refusal(site="b") or "")
    greeting = admission.greeting()
    signed = HELLO.model_copy(update={"signature": sign(key, HELLO.signed_part(greeting))})
    assert admission.refusal(greeting, signed) is None
    assert "not on the list" in (admission.refusal(admission.greeting(), signed) or "")
