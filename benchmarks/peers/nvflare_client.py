"""NVIDIA FLARE's client script: receives the model, trains it and sends it back, round by round."""

import nvflare.client as flare  # type: ignore[import-not-found]
import torch

from benchmarks.peers import task


def main() -> None:
    """Take part until the job is over."""
    flare.init()
    known, model = task.settings(), task.Network()
    number = int(flare.get_site_name().removeprefix("site-")) - 1
    while flare.is_running():
        received = flare.receive()
        model.load_state_dict({name: torch.as_tensor(a) for name, a in received.params.items()})
        loss = task.train(model, task.name_of(number))
        steps = known.epochs * -(-known.films // known.batch)
        flare.send(
            flare.FLModel(
                params=model.state_dict(),
                metrics={"loss": loss},
                meta={"NUM_STEPS_CURRENT_ROUND": steps},
            )
        )


if __name__ == "__main__":
    main()
