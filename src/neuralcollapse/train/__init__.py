"""Train classifiers and record how they collapse."""
