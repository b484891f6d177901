"""FedCXR, Flower and NVIDIA FLARE in one federation: the same model, films and training."""
