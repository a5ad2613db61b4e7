"""Slow references: float64 numpy loops written from the papers' definitions alone."""
