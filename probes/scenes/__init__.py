"""Synthetic pictures and clips with exact captions."""
