"""A long text is tokenised once, and again only where it has to be cut."""

from collections.abc import Callable
from typing import Any

import pytest

from probes import Backbone
from probes.model.encoding.plain import PlainTokenizer

TEXT = "the word of the image " * 2000


@pytest.mark.parametrize(("limit", "calls"), [(32_768, 1), (500, 3)])
def test_how_often_a_long_text_is_tokenised(
    limit: int, calls: int, tiny: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its characters alone do not tell that it fits."""
    backbone, seen = tiny("llama"), list[str]()
    encode = PlainTokenizer.encode

    def counted(self: PlainTokenizer, text: str, **first: Any) -> Any:
        seen.append(text)
        return encode(self, text, **first)

    monkeypatch.setattr(PlainTokenizer, "encode", counted)
    monkeypatch.setattr(backbone.encoder, "max_tokens", limit)
    assert 4 * len(TEXT) > limit
    row = backbone.row(TEXT)
    assert len(row) <= limit
    assert len(seen) == calls
