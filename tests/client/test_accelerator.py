import numpy as np
import pytest
import torch

from client.accelerator import ResidentFilms

GPU = torch.device("cuda")


@pytest.mark.parametrize(("free", "there"), [(4000, True), (3996, False)])
def test_films_lie_in_a_gpus_memory_if_they_leave_enough_for_the_training(
    monkeypatch: pytest.MonkeyPatch, free: int, there: bool
) -> None:
    """With a stand-in for the GPU, which has less memory in the end."""
    memory = iter([free, 0])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(memory), 10**6))
    monkeypatch.setattr("client.accelerator.copy_to", lambda images, _: torch.from_numpy(images))
    films = ResidentFilms(np.zeros((10, 10, 10), np.uint8))
    assert films.on(torch.device("cpu")) is None
    for _ in range(2):
        assert (films.on(GPU) is not None) == there
    films.give_up()
    assert films.on(GPU) is None
