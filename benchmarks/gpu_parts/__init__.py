"""The parts of `benchmarks/gpu.py`, one per file, and the models and inputs that they share."""
