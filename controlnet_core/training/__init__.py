"""Training a ControlNet: settings, loop, checkpoints and report."""
