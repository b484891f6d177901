"""The server's options."""

import pytest

from common.errors import BadInput
from common.runtime.cli import parse
from server.cli import ServerSettings


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (["--tls", "x"], True),
        (["--insecure"], False),
        (["--tls", "x", "--no-share-model"], False),
        (["--insecure", "--share-model"], True),
    ],
)
def test_the_model_is_shared_with_hospitals_on_a_list_unless_said_otherwise(
    options: list[str], shares: bool
) -> None:
    settings = parse(ServerSettings, ["--init", "random", "--run", "r", *options])
    assert settings.shares_model is shares


def test_a_runs_name_is_text_that_does_no_harm_in_a_log() -> None:
    options = ["--init", "random", "--run", "r", "--insecure", "--name"]
    assert parse(ServerSettings, [*options, "Pilot, März"]).name == "Pilot, März"
    for name in ("a\nb", "\x1b[31m", "x" * 81):
        with pytest.raises(BadInput, match="--name"):
            parse(ServerSettings, [*options, name])
