"""From items and prompts to left-padded batches of tokens, in which no content acts as a prompt."""

from probes.model.encoding.encoder import Encoder
from probes.model.encoding.rows import Batch, Row

__all__ = ["Batch", "Encoder", "Row"]
