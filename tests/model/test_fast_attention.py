"""Which attention of PyTorch a forward may use."""

import os

import pytest
import torch
from transformers.integrations import sdpa_attention

from probes import Backbone, record
from probes.model.attention import FORCE_GQA, fast_attention
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch

TEXTS = ["a cat on a mat", "a cat on a bed"]


def test_packs_are_not_computed_by_cudnn_which_plans_each_new_shape(smollm2: Backbone) -> None:
    """Whole rows are computed as transformers computes them, so that a trace equals plain hooks."""
    seen: list[bool] = []

    def allowed() -> bool:
        return torch.backends.cuda.cudnn_sdp_enabled()

    def forward(batch: Batch) -> list[torch.Tensor]:
        assert batch.packed
        return list(record(smollm2, batch, "attn[-1]")["attn[-1]"])

    layer = smollm2.model.get_decoder().layers[0]
    handle = layer.register_forward_hook(lambda *_: seen.append(allowed()))
    before = allowed()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        record(smollm2, TEXTS, "norm")
        run_batches(smollm2, smollm2.rows(TEXTS), forward)
        after = allowed()
        record(smollm2, TEXTS, "norm")
    finally:
        handle.remove()
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert after
    assert seen[0]
    assert seen[-1]
    assert False in seen


def test_keys_are_not_copied_for_the_heads_that_share_them(
    smollm2: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever there is a mask, transformers would do so on a CPU, with the same result."""
    copies: list[int] = []
    plain = sdpa_attention.repeat_kv

    def counted(states: torch.Tensor, heads: int) -> torch.Tensor:
        copies.append(heads)
        return plain(states, heads)

    monkeypatch.setattr(sdpa_attention, "repeat_kv", counted)
    batch = smollm2.encode(["a cat on a mat, and a dog", "a cat"])
    found = record(smollm2, batch, "norm")["norm"]
    assert copies == []
    with torch.no_grad():
        inputs = {**batch.inputs, "use_cache": False, "output_hidden_states": True}
        expected = smollm2.model(**inputs).hidden_states[-1][:, -1]
    assert len(copies) == 2 * smollm2.num_layers
    assert torch.equal(found, expected)
    assert FORCE_GQA not in os.environ


@pytest.mark.parametrize("before", [None, "0"])
def test_settings_are_as_before_when_the_last_of_several_forwards_has_ended(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards of two models may end in any order."""

    def settings() -> tuple[bool, str | None]:
        return torch.backends.cuda.cudnn_sdp_enabled(), os.environ.get(FORCE_GQA)

    if before is not None:
        monkeypatch.setenv(FORCE_GQA, before)
    found = settings()
    first, second = (fast_attention(torch.device("cpu"), packed=True) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert settings() == (False, "1"), "the second one is under way"
    second.__exit__(None, None, None)
    assert settings() == found
    with pytest.raises(RuntimeError), fast_attention(torch.device("cpu"), packed=True):
        raise RuntimeError("out of memory")
    assert settings() == found
