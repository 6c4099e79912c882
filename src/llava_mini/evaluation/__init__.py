"""Measure answers, always beside shuffled and blank pictures."""
