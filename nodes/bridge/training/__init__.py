"""Training in a graph."""
