"""Stages, recipes and the trainer."""
