"""Probe reports: the file that holds all results of one backbone, its tables, and comparisons."""
