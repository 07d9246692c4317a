"""Which attention of PyTorch a forward may use."""

import torch

from probes import Backbone, record
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
    assert seen.count(False) == 2, "the trial of sharing, and the rows"
