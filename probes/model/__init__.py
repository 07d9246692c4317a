"""One traced model: loading, encoding, batching, and recording its states."""
