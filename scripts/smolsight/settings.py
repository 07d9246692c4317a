"""Lengths and learning rates of smolsight's training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The defaults gave the shipped weights. Rates are the peaks of a one-cycle schedule."""

    seed: int = 0
    name_batches: int = 1000
    name_scenes: int = 64
    name_rate: float = 2e-3
    say_batches: int = 600
    say_scenes: int = 8
    say_rate: float = 1e-3
    tower_rate: float = 2e-4
