"""A backbone that holds no weights: the driver's, where actors on other machines compute."""

from dataclasses import dataclass
from typing import Any

from probes import Backbone, Loading
from probes.measure.run import DTYPES
from probes.model.anatomy import Anatomy
from probes.model.pretrained import Pretrained


@dataclass(frozen=True)
class Identity:
    """What only a process that holds the weights can find out."""

    fingerprint: dict[str, Any]
    anatomy: Anatomy
    digests: dict[str, str]
    """Digests of the weights as each of DTYPES rounds them."""

    @classmethod
    def of(cls, backbone: Backbone) -> "Identity":
        digests = {dtype: backbone.weights_digest(dtype) for dtype in DTYPES}
        return cls(backbone.fingerprint(), backbone.anatomy, digests)


class Weightless(Backbone):
    """Tokenises, applies prompts and knows its fingerprint, which another process has measured. It
    computes no forward.

    Args:
        parts: Those of `load_pretrained(…, weights=False)`.
        identity: From a process that has loaded the same model in the same way.
    """

    def __init__(self, parts: Pretrained, name: str, loading: Loading, identity: Identity):
        self.identity = identity
        super().__init__(
            parts.model, parts.tokenizer, parts.processor, name, parts.revision, None, loading
        )

    def fingerprint(self) -> dict[str, Any]:
        return self.identity.fingerprint

    def weights_digest(self, dtype: str | None = None) -> str:
        identity = self.identity
        return identity.fingerprint["weights"] if dtype is None else identity.digests[dtype]

    def _resolved(self) -> Anatomy:
        return self.identity.anatomy
