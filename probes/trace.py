"""A short name of the tracing layer: `from probes.trace import record`."""

from probes.model.trace import States, record

__all__ = ["States", "record"]
