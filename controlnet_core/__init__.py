"""ControlNet in pure PyTorch: model, weights, sampling and training."""
