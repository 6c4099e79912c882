"""Weights: where models come from and how they are named."""
