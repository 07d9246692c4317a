"""Ablations: the value of each part of the method on one dataset."""
