"""Features of films under a frozen backbone, kept from round to round."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from common.evaluation import predict
from common.shard import Shard


class FrozenFeatures:
    """Scores films again and again under a backbone that does not change.

    In linear mode the head alone changes from round to round, and the crops that are scored are not
    random. So the backbone runs once; from then on the head alone does. Logits are the same, bit
    for bit. It takes 4 kB for each film.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str, bytes] | None = None
        self._batches: list[Tensor] = []

    def predict(
        self,
        model: nn.Module,
        shard: Shard,
        indices: npt.NDArray[np.intp],
        device: torch.device,
        backbone: str | None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Return what :func:`common.evaluation.predict` returns.

        Args:
            model: Has the backbone.
            shard: The same one at each call.
            indices: Of the images.
            device: Where to compute.
            backbone: Hash of the backbone; None: it is not frozen, and nothing is kept.
            before_batch: Called before each batch that goes through the backbone.
        """
        head = model.get_submodule("classifier")
        key = None if backbone is None else (backbone, str(device), indices.tobytes())
        if key is not None and key == self._key:
            model.eval()
            with torch.inference_mode():
                return torch.cat([head(batch) for batch in self._batches])
        self._key, self._batches = None, []
        if key is None or not len(indices):
            return predict(model, shard, indices, device, before_batch)
        hook = head.register_forward_pre_hook(lambda _, inputs: self._batches.append(inputs[0]))
        try:
            logits = predict(model, shard, indices, device, before_batch)
        finally:
            hook.remove()
        self._key = key
        return logits
