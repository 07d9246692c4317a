"""Judges of stage 2: how well a candidate matches a query, one number for each pair."""
