"""A backbone that holds no weights: the driver's, where actors on other machines compute."""

from dataclasses import dataclass
from typing import Any

from probes import Backbone, Loading
from probes.model.anatomy import Anatomy
from probes.model.pretrained import Pretrained


@dataclass(frozen=True)
class Identity:
    """What only a process that holds the weights can find out."""

    fingerprint: dict[str, Any]
    anatomy: Anatomy


class Weightless(Backbone):
    """Tokenises, words prompts and knows who it is, as another process found; computes nothing."""

    def __init__(self, parts: Pretrained, name: str, loading: Loading, identity: Identity):
        """`parts` are those of `load_pretrained(…, weights=False)`."""
        self.identity = identity
        super().__init__(
            parts.model, parts.tokenizer, parts.processor, name, parts.revision, None, loading
        )

    def fingerprint(self) -> dict[str, Any]:
        return self.identity.fingerprint

    def _resolved(self) -> Anatomy:
        return self.identity.anatomy
