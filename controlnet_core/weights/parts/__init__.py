"""The models inside a source of weights: their sizes, their key maps and, when asked for, their state dicts."""
