"""The endpoints, one file per protocol."""
