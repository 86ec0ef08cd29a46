"""Every layout of weights: by which keys it is told, how sizes are read from it, and its key maps."""
