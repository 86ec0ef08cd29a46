"""Every file layout of weights: what a file is, how to read it, how to write it."""
