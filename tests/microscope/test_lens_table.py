"""Every number of a lens table is that of plain hooks, the model's own head and the definitions."""

import html
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from probes import E5V, LensTable, lens
from probes.errors import BadItem, BadSetting, NotRecorded
from probes.items import Item
from probes.microscope import lens as module
from probes.microscope.tokens import FUNCTION_WORDS, spelled
from probes.model.backbone import Backbone
from probes.model.sites import all_sites
from probes.model.vocabulary import vocabulary_of
from probes.prompts import Source
from tests.model.test_lens import unembed
from tests.model.test_trace import reference
from tests.models import MULTIMODAL, TEXT
from tests.samples import ITEMS

Tiny = Callable[[str], Backbone]
PROMPT = "one word of the image: 日本, naïve and 12345 others"


def check_table(
    name: str, backbone: Backbone, source: Source, sites: str | Sequence[str] = "all"
) -> None:
    """All positions, from hooks on modules that are named by architecture."""
    table = lens(backbone, source, sites=sites, top=5)
    batch = backbone.encode([source])
    expected = reference(name, backbone.model, batch)
    with torch.no_grad():
        own = backbone.model(**batch.inputs).logits[0].float()
    heads = backbone.model.get_output_embeddings().weight[own.argmax(-1)]
    assert table.predicted == tuple(spelled(backbone, own.argmax(-1).tolist()))
    before = dict(itertools.pairwise(reversed(all_sites(backbone))))
    for i, site in enumerate(table.sites):
        state = expected.everywhere[str(site)][0]
        logits = own if site.kind == "norm" else unembed(name, backbone.model, state).float()
        p = logits.softmax(-1)
        top = p.topk(5)
        np.testing.assert_allclose(table.probability[i], top.values, atol=1e-5, rtol=1e-4)
        entropy = -(p * p.log()).nan_to_num(0).sum(-1)
        np.testing.assert_allclose(table.entropy[i], entropy, atol=1e-4)
        for words, ids, shares in zip(table.words[i], top.indices, top.values, strict=True):
            if shares[0] - shares[1] > 1e-4:
                assert words[0] == spelled(backbone, [int(ids[0])])[0], site
        beta = torch.cosine_similarity(state, heads, dim=-1)
        np.testing.assert_allclose(table.beta[i], beta, atol=1e-5)
        if site.kind == "embed":
            assert np.isnan(table.alpha[i]).all()
        else:
            earlier = expected.everywhere[str(before[site])][0]
            alpha = torch.cosine_similarity(earlier, state, dim=-1)
            np.testing.assert_allclose(table.alpha[i], alpha, atol=1e-5)


@pytest.mark.parametrize("name", TEXT)
def test_the_table_is_that_of_plain_hooks(name: str, tiny: Tiny) -> None:
    check_table(name, tiny(name), PROMPT)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_the_table_of_a_picture_is_that_of_plain_hooks(name: str, tiny: Tiny) -> None:
    check_table(name, tiny(name), ITEMS["picture"])


def test_the_table_of_real_weights(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    source = ITEMS["picture"] if name == "smolsight" else "Paris is"
    check_table(
        name, backbone, source, ["embed", "attn[0]", "mlp[5]", "attn[-1]", "mlp[-1]", "norm"]
    )


def test_what_a_prompt_says(smollm2: Backbone) -> None:
    table = lens(smollm2, "The capital of France is", positions="last")
    assert table.words[table.row("norm"), 0, 0] == table.predicted[0] == "␣Paris"
    assert table.probability[table.row("norm"), 0, 0] == pytest.approx(0.773, abs=0.01)
    assert table.tokens == ("␣is",)
    assert table.row("attn[-1]") == len(table.sites) - 3


def test_sites_and_positions_are_parts_of_the_whole_table(tiny: Tiny) -> None:
    backbone = tiny("qwen2")
    whole = lens(backbone, PROMPT)
    sites = ["norm", "attn[-1]", "embed", "mlp[1]"]
    part = lens(backbone, PROMPT, sites=sites, positions=slice(-3, None), top=2)
    assert [str(site) for site in part.sites] == ["embed", "mlp[1]", "attn[3]", "norm"]
    assert part.positions == whole.positions[-3:]
    assert (part.tokens, part.predicted) == (whole.tokens[-3:], whole.predicted[-3:])
    rows = [whole.row(site) for site in part.sites]
    assert (part.words == whole.words[rows, -3:, :2]).all()
    for name in ("entropy", "alpha", "beta"):
        found, expected = getattr(part, name), getattr(whole, name)[rows, -3:]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(NotRecorded, match="mlp\\[0\\] was not read"):
        part.row("mlp[0]")
    with pytest.raises(NotRecorded, match="position 0 was not read"):
        part.columns([0])


def test_logits_are_held_for_few_states_at_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, held = tiny("llama"), []
    own = backbone.lens

    def watched(state: Tensor, site: object) -> Tensor:
        held.append(len(state))
        return own(state, site)  # type: ignore[arg-type]

    expected = lens(backbone, PROMPT)
    monkeypatch.setattr(backbone, "lens", watched)
    monkeypatch.setattr(module, "BLOCK", 7)
    table = lens(backbone, PROMPT)
    assert max(held) == 7
    np.testing.assert_allclose(table.probability, expected.probability, atol=1e-6)


def test_content_words_are_the_most_likely_words_that_name_something(smollm2: Backbone) -> None:
    prompt = "The capital of France is"
    table = lens(smollm2, prompt, content=True, top=3, sites=["mlp[-2]", "norm"], positions="last")
    every = lens(smollm2, prompt, top=40, sites=["mlp[-2]", "norm"], positions="last")
    last = table.row("norm")
    assert table.words[last, 0, 0] == "paris"
    assert table.probability[last, 0, 0] == pytest.approx(every.probability[last, 0, 0])
    np.testing.assert_allclose(table.entropy, every.entropy)
    known = set(vocabulary_of(smollm2).words)
    assert all(word in known and word not in FUNCTION_WORDS for word in table.words.ravel())
    assert "the" in {word.strip("␣") for word in every.words[last, 0]}


@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_tokens_are_spelled_visibly(name: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(name)
    row = backbone.row(E5V.apply("a  cat\tor\n<|im_end|> <b>"))
    tokens = spelled(backbone, row.ids)
    text = "".join(tokens)
    assert "a␣" in text
    assert "⇥or↵" in text
    assert "<|im_end|>" in text, "content is no control token"
    turn = {"smollm2": "⟨|im_start|⟩", "gemma": "⟨bos⟩"}[name]
    assert tokens[0] == turn
    assert spelled(backbone, [10**6]) == ["⟨1000000⟩"]


def test_a_frame_and_cells_hold_the_table(tiny: Tiny) -> None:
    table = lens(tiny("llama"), "Yes the word", sites=["embed", "norm"], top=3)
    cells = list(table.cells())
    assert len(cells) == 2 * len(table.positions)
    assert cells[0]["alpha"] is None
    assert cells[-1]["top"][0] == (table.words[-1, -1, 0], table.probability[-1, -1, 0])
    frame = table.to_dataframe()
    assert len(frame) == 3 * len(cells)
    last = frame.iloc[-1]
    assert (last["site"], last["rank"], last["word"]) == ("norm", 3, table.words[-1, -1, 2])
    assert repr(table).startswith("LensTable('LlamaForCausalLM', 2 sites")


def test_what_cannot_be_read(tiny: Tiny, unchecked: None) -> None:
    backbone = tiny("llama")
    with pytest.raises(BadItem, match="type list"):
        lens(backbone, ["one", "two"])
    with pytest.raises(BadSetting, match="at least one site"):
        lens(backbone, "one", sites=[])
    with pytest.raises(BadSetting, match="top must be"):
        lens(backbone, "one", top=0)
    with pytest.raises(BadSetting, match="none at slice"):
        lens(backbone, "one", positions=slice(90, None))


# ------------------------------------------------------------------------------------- HTML


def cells_of(page: str) -> list[str]:
    return re.findall(r"<td .*?</td>", page, re.DOTALL)


def test_the_page_shows_every_cell_and_the_notebook_the_end(tiny: Tiny, tmp_path: Path) -> None:
    table = lens(tiny("llama"), PROMPT)
    page = table.save(tmp_path / "lens.html").read_text()
    assert page.startswith("<!doctype html>")
    assert len(cells_of(page)) == table.entropy.size
    part = table._repr_html_()
    assert len(cells_of(part)) == module.SHOWN * len(table.sites)
    assert f"{module.SHOWN} of the {table.length} tokens" in part
    assert "<script" not in page
    assert "http" not in page
    last = html.unescape(cells_of(part)[-1])
    assert f"entropy {table.entropy[-1, -1]:.2f} nats" in last
    assert f"β {table.beta[-1, -1]:.2f}" in last
    assert all(word in last for word in table.words[-1, -1])
    with pytest.raises(BadSetting, match=r"saved as a \.html file"):
        table.save(tmp_path / "lens.png")


def test_text_is_escaped(tiny: Tiny) -> None:
    page = lens(tiny("llama"), "<b onclick='x'>&", sites="norm")._repr_html_()
    assert "&lt;" in page
    assert "<b>" not in re.sub(r"<b>(&lt;|[^<])*</b>", "", page)


def test_a_notebook_stays_small(smollm2: Backbone) -> None:
    table: LensTable = lens(smollm2, Item("The capital of France is Paris and that of Spain is"))
    assert table.length >= module.SHOWN
    assert len(table._repr_html_()) < 200_000
