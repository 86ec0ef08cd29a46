"""Datasets: pairs of pictures and hints to train on, and their cache."""
