from pathlib import Path

import pytest

from server.admission import Admission
from server.run_folder import RunFolder
from tests.server.test_checks import HELLO


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
