"""How fast, and in how much memory: measured, side by side, with equal results."""
