"""What a hospital has spent: on disk before the training, bounded by its policy, never twice."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from client.policy import Budget, NotAllowed
from client.private.account import PrivacyAccount, Spent
from common.accounting import Noisy, epsilon_of
from common.errors import BadInput
from common.model import build_model
from common.options import Precision, Training
from tests.support.hospitals import instruction_of, plan_of
from tests.support.shards import make_shard

COST = Noisy(noise=1.0, rate=0.1, steps=10)

PAYS_AND_DIES = """
import os, signal, sys
from pathlib import Path
from client.private.account import PrivacyAccount
from common.accounting import Noisy
account = PrivacyAccount(Path(sys.argv[1]))
account.pay([b"model"], "run", 1, Noisy(noise=1.0, rate=0.1, steps=10))
os.kill(os.getpid(), signal.SIGKILL)
"""


def pay(account: PrivacyAccount, purpose: bytes, number: int = 1) -> bytes:
    return account.pay([purpose], "run", number, COST).uniform(4).tobytes()


def test_what_is_paid_survives_a_kill_before_the_training(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    end = subprocess.run([sys.executable, "-c", PAYS_AND_DIES, str(file)], check=False)
    assert end.returncode == -signal.SIGKILL
    account = PrivacyAccount(file)
    assert account.spent.epsilon == pytest.approx(epsilon_of([COST], 1e-5))
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_same_training_is_paid_once_and_has_the_same_noise(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    first = pay(PrivacyAccount(file), b"model")
    assert pay(PrivacyAccount(file), b"model") == first
    assert len(Spent.model_validate_json(file.read_bytes()).charges) == 1
    assert pay(PrivacyAccount(file), b"another model") != first
    assert len(Spent.model_validate_json(file.read_bytes()).charges) == 2


def test_only_what_gives_the_same_bytes_has_the_same_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same noise on a result of other rounding would be a second release that nobody counts."""
    account = PrivacyAccount(tmp_path / "privacy.json")
    model, shard = build_model("densenet-tiny"), make_shard(tmp_path / "a")
    instruction = instruction_of(plan_of(dp="sample"), 1)

    def draw(device: str = "cpu", precision: Precision = "fp32") -> float:
        where = torch.device(device), precision
        stream = account.pay_for(instruction, model, shard, np.arange(20), *where)
        assert stream is not None
        return float(stream.uniform(1)[0])

    first = draw()
    assert draw() == first
    drawn = [first, draw(precision="bf16"), draw("cuda"), draw("cuda")]  # a GPU repeats no sum
    monkeypatch.setattr(torch, "__version__", "0")
    drawn.append(draw())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    drawn.append(draw())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SSE")
    drawn.append(draw())
    monkeypatch.setattr(np, "__version__", "0")
    drawn.append(draw())
    monkeypatch.setattr("client.private.account.OWN_CODE", "0")
    drawn.append(draw())
    monkeypatch.setattr("client.private.account.cpu_model", lambda: "another")
    drawn.append(draw())
    assert len(set(drawn)) == 10
    charges = Spent.model_validate_json((tmp_path / "privacy.json").read_bytes()).charges
    assert len(charges) == 10


def test_parts_of_a_purpose_cannot_be_shifted(tmp_path: Path) -> None:
    account = PrivacyAccount(tmp_path / "privacy.json")
    one = account.pay([b"ab", b"c"], "run", 1, COST).uniform(1)
    other = account.pay([b"a", b"bc"], "run", 1, COST).uniform(1)
    assert one != other


def test_what_has_no_epsilon_is_not_paid_for(tmp_path: Path) -> None:
    account = PrivacyAccount(tmp_path / "privacy.json")
    with pytest.raises(OverflowError):
        account.pay([b"a"], "run", 1, COST.model_copy(update={"noise": 1e160}))
    account.pay([b"b"], "run", 1, COST)
    assert account.spent.epsilon > 0
    with pytest.raises(ValidationError):
        Training(dp="sample", dp_noise=1e160)


def test_beyond_the_budget_nothing_is_trained_and_nothing_is_paid(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    twice = epsilon_of([COST, COST], 1e-3)
    account = PrivacyAccount(file, Budget(epsilon=twice, delta=1e-3))
    pay(account, b"1")
    pay(account, b"2", 2)
    before = file.read_bytes()
    with pytest.raises(NotAllowed, match=rf"epsilon \d+\.\d\d, and the budget is {twice:g} at"):
        pay(account, b"3", 3)
    assert file.read_bytes() == before
    pay(account, b"2", 2)  # a repeated round is paid for already
    # Another process, and so another run, has the same budget.
    with pytest.raises(NotAllowed):
        pay(PrivacyAccount(file, Budget(epsilon=twice, delta=1e-3)), b"3", 3)


def test_a_budget_needs_a_place_to_be_kept() -> None:
    with pytest.raises(BadInput, match="give --state"):
        PrivacyAccount(None, Budget(epsilon=1))


@pytest.mark.parametrize("content", ["", "{}", '{"secret": "00"}', "[" * 100_000])
def test_a_damaged_file_is_not_begun_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "privacy.json"
    file.write_text(content)
    with pytest.raises(BadInput, match="restore it from the newest backup, whose last charge"):
        PrivacyAccount(file)
    assert file.read_text() == content


def test_a_file_that_cannot_be_read_is_no_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "privacy.json").mkdir()
    with pytest.raises(BadInput, match="Is a directory; see that it can be read"):
        PrivacyAccount(tmp_path / "privacy.json")


def test_the_file_has_no_more_than_it_says(tmp_path: Path) -> None:
    file = tmp_path / "privacy.json"
    pay(PrivacyAccount(file), b"model")
    content = json.loads(file.read_bytes())
    assert content.keys() == {"format", "secret", "charges"}
    assert content["charges"][0].keys() == {"purpose", "run", "round", "cost"}
