"""Stage 1: embedding by trace against the E5-V procedure, a raw hook and a plain forward.

    python benchmarks/stage1.py

16 rows of 64 tokens, interleaved, medians. Writes benchmarks/results/stage1.json.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from common import (
    gemm_peak,
    interleaved,
    matrix_flops,
    median,
    peak_memory,
    ratio,
    report_peak,
    save,
)
from probes import Backbone, all_sites, record
from probes.model.encoding import Row

ROWS, TOKENS, REPEATS = 16, 64, 9


class Stop(Exception):
    """Raised by the raw hook to end the forward."""


def ways(backbone: Backbone) -> dict[str, Callable[[], object]]:
    """The procedures compared; each returns last-position states [16, hidden]."""
    pick = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 40000, (ROWS, TOKENS), generator=pick).tolist()
    batch = backbone.collate([Row(row) for row in ids])
    model, last = backbone.model, backbone.model.get_decoder().layers[-1]

    @torch.no_grad()
    def e5v() -> torch.Tensor:
        return model(**batch.inputs, output_hidden_states=True).hidden_states[-1][:, -1]

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return model.get_decoder()(**batch.inputs, use_cache=False).last_hidden_state[:, -1]

    @torch.no_grad()
    def raw_hook() -> torch.Tensor:
        kept: list[torch.Tensor] = []

        def hook(module: object, args: tuple) -> None:
            kept.append(args[0][:, -1].clone())
            raise Stop

        handle = last.post_attention_layernorm.register_forward_pre_hook(hook)
        try:
            model(**batch.inputs, use_cache=False)
        except Stop:
            pass
        finally:
            handle.remove()
        return kept[0]

    sites = all_sites(backbone.num_layers)
    return {
        "E5-V procedure (all logits, output_hidden_states)": e5v,
        "plain backbone forward": plain,
        "raw hook, stops at attn[-1]": raw_hook,
        "trace, stops at attn[-1]": lambda: record(backbone, batch, ["attn[-1]"]),
        "trace, all sites": lambda: record(backbone, batch, sites),
    }


def main() -> None:
    backbone = Backbone.load("smollm2-135m")
    runs = ways(backbone)
    e5v, plain, raw, trace, everything = runs
    if len(sys.argv) > 1:  # one way alone, for its peak memory
        report_peak(runs[sys.argv[1]])
        return
    times = interleaved(runs, REPEATS)
    peak = gemm_peak()
    useful = matrix_flops(backbone.model, ROWS * TOKENS, last_mlp=False)
    share = useful / median(times[trace]) / peak
    memory = {name: peak_memory(Path(__file__), name) for name in runs}
    for name in runs:
        print(f"{name:52} {median(times[name]) * 1e3:8.0f} ms {memory[name]:8.0f} MB extra at peak")
    figures = {
        "speed-up over the E5-V procedure": ratio(times, e5v, trace),
        "time against the raw hook": ratio(times, trace, raw),
        "all sites against a plain forward": ratio(times, everything, plain),
        "share of GEMM peak": share,
    }
    for name, value in figures.items():
        print(f"{name:52} {value:8.3f}")
    save("stage1", {"seconds": times, "peak_mb": memory, "gemm_peak": peak, **figures})


if __name__ == "__main__":
    main()
