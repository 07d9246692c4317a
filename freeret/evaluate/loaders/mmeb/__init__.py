"""MMEB and MMEB-V2 in the layouts in which they are published."""
