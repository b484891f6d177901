"""Self-supervised pretraining of the backbone on unlabelled radiographs."""
