"""Trackers that people already use: TensorBoard, MLflow, Weights & Biases; one file for each."""
