from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.certificates import Peer
from common.protocol import Greeting
from server.members.admission import Admission
from server.members.sites import Site, SiteList, write_sites
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
    admission = Admission(Greeting(run="r", seed=0), HELLO.image_size, folder, max_examples=1000)
    refusal = admission.refusal(None, HELLO.model_copy(update=changes))
    if announced is None:
        assert refusal is None
    else:
        assert f"announces {announced} images, more than --max-examples 1000" in (refusal or "")


def test_the_certificate_must_be_the_listed_one_of_the_hospital_that_it_names(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    sites = {
        name: Site(certificate=digit * 64, added=now, expires=now + timedelta(days=1))
        for name, digit in ((HELLO.site, "1"), ("b", "2"))
    }
    write_sites(tmp_path / "sites.json", sites)
    folder = RunFolder.create(tmp_path / "run", {})
    admission = Admission(
        Greeting(run="r", seed=0), HELLO.image_size, folder, SiteList(tmp_path / "sites.json")
    )
    mine = Peer(HELLO.site, "1" * 64)
    assert admission.refusal(mine, HELLO) is None
    assert admission.standing(mine, HELLO) is None
    for peer, why in (
        (None, "its certificate is not that of a"),
        (Peer("b", "2" * 64), "its certificate is not that of a"),
        (Peer(HELLO.site, "2" * 64), "the list has another certificate for a"),
    ):
        assert why in (admission.refusal(peer, HELLO) or "")
        assert why in (admission.standing(peer, HELLO) or "")
    stranger = HELLO.model_copy(update={"site": "c"})
    assert "not on the list" in (admission.refusal(Peer("c", "1" * 64), stranger) or "")
    write_sites(tmp_path / "sites.json", {**sites, HELLO.site: sites["b"]})  # renewed
    assert "another certificate" in (admission.standing(mine, HELLO) or "")
