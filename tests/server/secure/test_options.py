from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from common.secure.settings import MOST_FILMS
from server.cli import ServerSettings
from server.run.records import RoundRecord, SecureSum
from server.secure.options import SecureOptions
from tests.support.records import round_record


def settings_of(**changes: Any) -> ServerSettings:
    return ServerSettings(
        **{
            "init": "random",
            "run": Path("run"),
            "insecure": True,
            "secure_aggregation": True,
            **changes,
        }
    )


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_strategies_that_need_the_mean_alone_fit(strategy: str) -> None:
    assert settings_of(strategy=strategy).secure.secure_aggregation


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "median", "secure_groups": 3},
        {"strategy": "trimmed-mean", "secure_groups": 3, "min_clients": 20},
        {"strategy": "fedadam", "average": "median", "secure_groups": 3, "min_clients": 12},
    ],
)
def test_strategies_that_compare_updates_compare_groups(changes: dict[str, Any]) -> None:
    assert settings_of(**{"min_clients": 12, **changes}).secure.secure_groups == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": "fednova"}, "--strategy fednova needs each hospital's update or films"),
        ({"strategy": "scaffold"}, "--strategy scaffold needs each hospital's update or films"),
        ({"strategy": "feddyn"}, "--strategy feddyn needs each hospital's update or films"),
        ({"strategy": "my.own:Class"}, "--strategy my.own:Class needs each hospital's update"),
        ({"strategy": "median"}, "give --secure-groups 3 or more"),
        ({"strategy": "clipped"}, "give --secure-groups 3 or more"),
        ({"strategy": "fedadam", "average": "median"}, "--strategy fedadam --average median comp"),
        ({"secure_groups": 3, "min_clients": 20}, "give --strategy median, or leave"),
        (
            {"secure_groups": 3, "min_clients": 20, "strategy": "fedadam"},
            "give --strategy fedadam --average median, or leave",
        ),
        ({"norm_limit": 10.0}, "--norm-limit compares single updates"),
        ({"wire": "bf16"}, "--wire bf16 encodes updates that would not add up"),
        ({"wire": "topk"}, "--wire topk encodes updates that would not add up"),
        ({"dp": "site"}, "--dp site shortens single updates at the server"),
        ({"rounds_end": 8}, "--rounds-end adds single updates to later rounds"),
        ({"canary": True}, "--canary tells films and training loss"),
        ({"fraction": 0.5, "sample": "size"}, "--sample size draws hospitals by their films"),
        (
            {"min_clients": 70, "secure_threshold": 0.6},
            "beyond 50 hospitals each masks with some of the others alone; give more than 0.6",
        ),
        ({"min_clients": 3}, "a round needs 3 good replies, and the quorum is 2"),
        (
            {"min_clients": 10, "secure_groups": 3, "strategy": "median"},
            "a round needs 9 good replies, and the quorum is 8",
        ),
        (
            {"secure_aggregation": False, "secure_clip": 1.0},
            "--secure-clip is a setting of --secure-aggregation; leave it out",
        ),
    ],
)
def test_what_needs_single_updates_is_refused_with_the_reason(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as error:
        settings_of(**changes)
    assert said in str(error.value)


def with_sums(films: int, hospitals: int) -> RoundRecord:
    names = [f"hospital-{i:02d}" for i in range(hospitals)]
    summed = SecureSum(
        hospitals=names, dropped=[], films=films, loss=0.5, norm=1.0, seconds=1.0, received=1
    )
    return round_record(1).model_copy(update={"secure": [summed]})


def test_words_are_as_fine_as_what_is_known_of_the_films_allows() -> None:
    options = SecureOptions(secure_aggregation=True)
    assert SecureOptions().settings(1000, 10, [], 1) is None
    first = options.settings(1000, 10, [], 1)
    assert first is not None
    assert (first.films, first.total) == (1000, 10_000)
    later = options.settings(1000, 12, [with_sums(2000, 10)], 1)
    assert later is not None
    assert later.total == 2401
    of_large = [with_sums(9000, 10), with_sums(2000, 10)]  # a large hospital was asked in one alone
    assert options.settings(1000, 12, of_large, 1) == later.model_copy(update={"total": 10_801})
    repeated = options.settings(1000, 12, [with_sums(2000, 10)], 2)
    assert repeated is not None
    assert repeated.total == 12_000
    many = options.settings(2**24, 1000, [], 1)
    assert many is not None
    assert many.films * 1000 <= many.total <= MOST_FILMS
