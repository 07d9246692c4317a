"""`from probes.trace import record`: the tracing layer under its short name."""

from probes.model.trace import States, record

__all__ = ["States", "record"]
