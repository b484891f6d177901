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


OPTIONS = ["--init", "random", "--run", "r", "--insecure"]
SIZE, END = ["--fraction", "0.5", "--sample", "size"], ["--rounds-end"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {"strategy": "fedavg", "local": "sgd", "server_lr": None, "tau": None}),
        (["--strategy", "scaffold"], {"local": "scaffold"}),
        (["--strategy", "feddyn"], {"local": "feddyn"}),
        (["--strategy", "fednova", "--local", "fedprox"], {"local": "fedprox", "mu": 0.01}),
        (["--strategy", "fedavgm"], {"server_lr": 1, "server_momentum": 0.9, "tau": None}),
        (["--strategy", "fedadam", "--tau", "0.1"], {"server_lr": 0.01, "beta2": 0.99, "tau": 0.1}),
        (["--strategy", "fedyogi", "--average", "median"], {"average": "median"}),
        (["--mode", "linear", "--shared", "head", "--ema", "0.9"], {"ema": 0.9}),
    ],
)
def test_a_strategy_brings_its_own_settings(
    options: list[str], settings: dict[str, object]
) -> None:
    found = parse(ServerSettings, [*OPTIONS, *options])
    assert {name: getattr(found, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--tau", "0.1"], "--tau is a setting of fedadagrad, fedadam, fedyogi, and --strategy"),
        (["--strategy", "fedavgm", "--beta2", "0.9"], "--beta2 is a setting of fedadam, fedyogi"),
        (["--strategy", "scaffold", "--local", "fedprox"], "needs --local scaffold, not fedprox"),
        (["--local", "feddyn"], "give --strategy feddyn"),
        (["--strategy", "median", "--local", "scaffold"], "give --strategy scaffold"),
        (["--strategy", "scaffold", "--wire", "topk"], "give --wire int8 or bf16"),
        (["--strategy", "feddyn", "--wire", "topk"], "give --wire int8 or bf16"),
        (["--strategy", "median", "--wire", "topk"], "what only a few of them send is left out"),
        (["--strategy", "fedavgm", "--wire", "topk"], "leaps too far; give --wire int8 or bf16"),
        (
            ["--strategy", "fedadam", "--average", "trimmed-mean", "--wire", "topk"],
            "does not fit --average trimmed-mean",
        ),
        (["--strategy", "scaffold", "--mu", "0.5"], "train by scaffold; leave --mu out"),
        (["--average", "median"], "is --strategy median"),
        (["--strategy", "scaffold", "--average", "median"], "cancel in the plain mean alone"),
        (["--strategy", "feddyn", "--average", "clipped"], "cancel in the plain mean alone"),
        (["--strategy", "fednova", "--average", "median"], "needs all of them"),
        (["--strategy", "clipped", "--average", "median"], "it is an average itself"),
        (["--mode", "linear", "--shared", "backbone"], "nothing would be shared"),
        (["--mu", "0.1"], "hospitals train by sgd; give --local fedprox, or leave --mu out"),
        (["--strategy", "scaffold", "--alpha", "3"], "give --strategy feddyn, or leave --alpha"),
        (
            ["--local", "fedprox", "--mu", "20", "--lr", "0.1"],
            "leap beyond the received model; give less of one",
        ),
        (["--dp", "sample", "--dp-clip", "0.0001"], "greater than or equal to 0.001"),
        (["--dp", "sample", "--mixup", "0.2"], "a film would be in the gradients of others"),
        (["--dp", "sample", "--positive-weights"], "would tell how many films are positive"),
        (["--dp", "sample", "--clip-norm", "1"], "shortened already"),
        (["--dp", "sample", "--strategy", "scaffold"], "what it remembers of the films"),
        (["--dp", "sample", "--shared", "backbone"], "give --shared all"),
        (["--dp", "site", "--strategy", "median"], "give fedavg, fedavgm"),
        (["--dp", "site", "--strategy", "fedadam", "--average", "median"], "leave it out"),
        (["--dp-quantile", "0.5"], "a setting of --dp site, and --dp is none"),
        (["--dp", "site", "--norm-limit", "10"], "each is shortened to --dp-clip already"),
        (["--dp", "site", "--dp-noise", "0.1"], "greater than or equal to 0.3"),
        (["--shared", "no-batchnorm", "--test", "shard"], "leave --test out"),
        (["--strategy", "fedsgd"], "--strategy"),
        ([*SIZE, "--fraction", "1"], "draws nobody while all are asked"),
        ([*SIZE, "--strategy", "median"], "all hospitals count the same in it; give --sample uni"),
        ([*SIZE, "--strategy", "fedadam", "--average", "clipped"], "--average clipped does not"),
        ([*SIZE, "--strategy", "scaffold"], "its mean is uniform"),
        ([*SIZE, "--strategy", "a.b:C"], "it may make anything of the numbers of examples"),
        ([*SIZE, "--dp", "site"], "which --dp site does not make up for"),
        ([*END, "9", "--strategy", "scaffold"], "belongs to one model"),
        ([*END, "9", "--strategy", "feddyn"], "belongs to one model"),
        ([*END, "9", "--shared", "no-batchnorm"], "under --shared no-batchnorm belongs to the"),
        ([*END, "9", "--wire", "int8"], "under --wire int8 belongs to the round in which it"),
        ([*END, "9", "--fraction", "0.9"], "give one of the two"),
        ([*END, "11"], "is more than --min-clients 10"),
        ([*END, "7"], "is below the quorum of 8 valid replies"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(
    options: list[str], why: str
) -> None:
    with pytest.raises(BadInput, match=why):
        parse(ServerSettings, [*OPTIONS, *options])


def test_a_runs_name_is_text_that_does_no_harm_in_a_log() -> None:
    options = ["--init", "random", "--run", "r", "--insecure", "--name"]
    assert parse(ServerSettings, [*options, "Pilot, März"]).name == "Pilot, März"
    for name in ("a\nb", "\x1b[31m", "x" * 81):
        with pytest.raises(BadInput, match="--name"):
            parse(ServerSettings, [*options, name])
