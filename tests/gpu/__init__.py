"""What only a GPU can show; `make test-gpu` runs it."""

import pytest
import torch

GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
