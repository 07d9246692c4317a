"""Evaluation: datasets, metrics, and tables of methods compared query by query."""
