"""Curves follow their definitions: plain hooks, float64 and nothing of the code under test.

    alpha_attn[l] = cos(mlp[l-1], attn[l])      alpha_mlp[l] = cos(attn[l], mlp[l])
    beta_attn[l]  = cos(attn[l], w_y*)          beta_mlp[l]  = cos(mlp[l], w_y*)

with y* the most likely next word, mlp[-1] before the first layer the embedding, and the step
through the final norm at the end. The rank and the probability of y* are those of the logit lens.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes import NAMED
from probes.data import paraphrases
from probes.errors import BadFile, BadSetting
from probes.items import Item
from probes.measure.lexicalization import (
    PROMPT_KINDS,
    Curves,
    curve_prompts,
    curve_sites,
    curves_by_prompt,
    lexicalization_curves,
    prompt_kind,
)
from probes.model.backbone import Backbone
from probes.model.sites import Site, all_sites
from probes.prompts import E5V, PROMPT_EOL, ControlPrompt, Prompted
from probes.stats import Interval, mean_interval, median_interval
from tests.model.test_lens import unembed
from tests.model.test_trace import reference
from tests.models import MULTIMODAL, TEXT
from tests.samples import items_for

Tiny = Callable[[str], Backbone]
PROMPTS = [
    "the word",
    "one word of the image: 日本, naïve and 12345 others 🙂",
    E5V.apply(Item("A lighthouse shines over a stormy sea.")),
    E5V.apply(Item("Yes")),
    ControlPrompt().apply(Item("the user")),
]
QUANTITIES = {f.name for f in fields(Curves)} - {"words"}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def by_definition(name: str, backbone: Backbone, model: Any, prompt: Any) -> tuple[dict, str]:
    """Every quantity of one prompt by layer, and the word; the prompt runs alone."""
    found = reference(name, model, backbone.encode([prompt]))
    word = int(np.argmax(found.logits[0].double().numpy()))
    row = model.lm_head.weight[word].detach().double().numpy()
    at = {site: state[0].double().numpy() for site, state in found.sites.items()}

    def lens(site: str) -> tuple[int, float]:
        state = found.sites[site]
        logits = unembed(name, model, state, normed=site == "norm")[0].double().numpy()
        return 1 + int((logits > logits[word]).sum()), 1 / np.exp(logits - logits[word]).sum()

    values: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    before = at["embed"]
    for layer in range(backbone.num_layers):
        for kind in ("attn", "mlp"):
            state = at[f"{kind}[{layer}]"]
            rank, probability = lens(f"{kind}[{layer}]")
            values[f"alpha_{kind}"].append(cosine(before, state))
            values[f"beta_{kind}"].append(cosine(state, row))
            values[f"norm_{kind}"].append(float(np.sqrt((state**2).sum())))
            values[f"rank_{kind}"].append(rank)
            values[f"probability_{kind}"].append(probability)
            before = state
    values["alpha_norm"] = [cosine(before, at["norm"])]
    values["beta_norm"] = [cosine(at["norm"], row)]
    values["probability_norm"] = [lens("norm")[1]]
    return values, backbone.tokenizer.decode([word])


def check_curves(name: str, backbone: Backbone, model: Any, prompts: Sequence[Any]) -> Curves:
    each = [by_definition(name, backbone, model, prompt) for prompt in prompts]
    curves = lexicalization_curves(backbone, prompts, seed=3)
    assert curves.words == [word for _, word in each]
    assert curves.num_layers == backbone.num_layers
    for quantity in sorted(QUANTITIES):
        values = np.array([values[quantity] for values, _ in each], dtype=float)
        found: Interval = getattr(curves, quantity)
        ranks = quantity.startswith("rank")
        middle = statistics.median if ranks else statistics.fmean
        expected = np.array([middle(column) for column in values.T.tolist()])
        # Rounding may exchange two words whose logits are all but equal.
        close = {"rtol": 1e-4, "atol": 1 if ranks else 1e-5, "err_msg": quantity}
        np.testing.assert_allclose(found.mean, expected, **close)
        bounds = (median_interval if ranks else mean_interval)(values, 3)
        np.testing.assert_allclose(found.low, bounds.low, **close)
        np.testing.assert_allclose(found.high, bounds.high, **close)
        if len(expected) > 1 and not ranks:  # a shift by one layer would be seen
            step = np.abs(np.diff(expected)) / np.abs(expected[1:])
            assert step.max() > 1e-3, f"{quantity} is the same in all layers"
    return curves


@pytest.mark.parametrize("name", TEXT)
def test_curves_follow_their_definitions(name: str, tiny: Tiny) -> None:
    curves = check_curves(name, tiny(name), TEXT[name].__wrapped__(), PROMPTS)
    assert len(set(curves.words)) > 1, "one word's row would pass for another's"
    assert np.ptp(curves.rank_attn.mean) > 0


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_pictures_have_curves_too(name: str, tiny: Tiny) -> None:
    model, _ = MULTIMODAL[name].__wrapped__()
    prompts = [*PROMPTS[:2], E5V.apply(items_for(name)["picture"]), items_for(name)["pictures"]]
    check_curves(name, tiny(name), model, prompts)


def test_the_onset_is_before_the_sharper_turn(tiny: Tiny) -> None:
    curves = lexicalization_curves(tiny("llama"), PROMPTS[:2])

    def with_last(mlp: float, norm: float) -> Curves:
        alpha = curves.alpha_mlp.mean.copy()
        alpha[-1] = mlp
        data = curves.to_json()
        data["alpha_mlp"]["mean"], data["alpha_norm"]["mean"] = alpha.tolist(), [norm]
        return Curves.from_json(data)

    assert with_last(0.2, 0.9).onset == "attn[-1]"
    assert with_last(0.9, 0.2).onset == "mlp[-1]"
    assert with_last(0.5, 0.5).onset == "attn[-1]", "the paper's site when neither is sharper"
    assert with_last(0.89, 0.95).turn == "the last MLP"
    still = with_last(0.92, 0.9)
    assert (still.onset, still.turn, still.alpha_turn) == (None, "no turn", 0.9)
    assert repr(still).endswith("no turn)")


def test_a_prompt_has_its_own_curves_in_any_batch(tiny: Tiny) -> None:
    """Rows are sorted by length inside; words and figures come back in the order given."""
    backbone = tiny("llama")
    together = lexicalization_curves(backbone, PROMPTS)
    alone = [lexicalization_curves(backbone, [prompt]) for prompt in PROMPTS]
    assert together.words == [word for curves in alone for word in curves.words]
    mean = np.mean([curves.beta_mlp.mean for curves in alone], axis=0)
    np.testing.assert_allclose(together.beta_mlp.mean, mean, atol=1e-5)


def test_curves_are_read_as_they_were_written(tiny: Tiny) -> None:
    curves = lexicalization_curves(tiny("llama"), PROMPTS)
    data = curves.to_json()
    again = Curves.from_json(data)
    assert again.to_json() == data
    assert again.words == curves.words
    for quantity in QUANTITIES:
        for key in Interval._fields:
            written, measured = (getattr(getattr(c, quantity), key) for c in (again, curves))
            np.testing.assert_allclose(written, measured, rtol=5e-4, err_msg=quantity)
    tiny_probability = Interval(*[np.array([1.23456e-9])] * 3)
    small = Curves(**{**vars(curves), "probability_norm": tiny_probability}).to_json()
    assert small["probability_norm"]["mean"] == [1.235e-9], "not rounded to zero"


def test_curves_are_saved_and_loaded(tiny: Tiny, tmp_path: Path) -> None:
    curves = lexicalization_curves(tiny("llama"), PROMPTS)
    again = Curves.load(curves.save(tmp_path / "c.json"))
    assert again.to_json() == curves.to_json()
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(BadFile, match=r"other\.json holds no curves"):
        Curves.load(tmp_path / "other.json")


def test_curves_can_be_measured_under_any_named_prompt(tiny: Tiny) -> None:
    backbone, texts = tiny("llama"), ["the word", "one of the users"]
    expected = lexicalization_curves(backbone, [PROMPT_EOL.apply(Item(text)) for text in texts])
    for prompt in ("prompteol", PROMPT_EOL):
        curves = lexicalization_curves(backbone, texts, prompt=prompt)
        assert curves.to_json() == expected.to_json()
    assert lexicalization_curves(backbone, texts).to_json() != expected.to_json()
    with pytest.raises(BadSetting, match="under a prompt already"):
        lexicalization_curves(backbone, [E5V.apply(Item("a"))], prompt="prompteol")
    with pytest.raises(BadSetting, match="no prompt 'nope'"):
        lexicalization_curves(backbone, texts, prompt="nope")


# -------------------------------------------------------------------------- the kinds of prompt


def test_every_kind_of_prompt_covers_the_two_hundred_sentences(tiny: Tiny) -> None:
    backbone, control = tiny("llama"), tiny("llama").encoder.plain.control_ids
    assert list(PROMPT_KINDS) == ["word", "control", "text"]
    for kind in PROMPT_KINDS:
        prompts = curve_prompts(kind)
        assert len(prompts) == len(paraphrases()) == 200
        opens_a_turn = bool(set(backbone.row(prompts[0]).ids) & set(control))
        assert opens_a_turn == (kind != "text")


def test_each_kind_of_prompt_holds_the_sentence_as_documented() -> None:
    """The third sentence is: A lighthouse shines over a stormy sea."""
    word, control, text = (curve_prompts(kind)[2] for kind in PROMPT_KINDS)
    sentence = Item("A lighthouse shines over a stormy sea.")
    assert text == Item("A lighthouse shines over a stormy")
    assert isinstance(word, Prompted)
    assert word == E5V.apply(sentence)
    assert word.user[-1] == "\nSummary above sentence in one word: "
    assert control == ControlPrompt().apply(sentence)


def test_running_text_lacks_only_the_last_word() -> None:
    for row, prompt in zip(paraphrases(), curve_prompts("text"), strict=True):
        before, _, last = row["sentence"].rpartition(" ")
        assert prompt == Item(before)
        assert last.strip()


def test_another_kind_of_site_does_not_shift_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = all_sites(3)
    other = Site("attn", 1)
    object.__setattr__(other, "kind", "query")
    more = [each for site in sites for each in (site, other)]
    monkeypatch.setattr("probes.measure.lexicalization.all_sites", lambda _: more)
    assert curve_sites(3) == sites


def test_every_named_prompt_belongs_to_a_kind() -> None:
    kinds = {name: prompt_kind(name) for name in NAMED}
    assert kinds == {
        "control": "control", "control, no task": "control", "e5v": "word", "prompteol": "word",
        "hierarchical": "word",
    }  # fmt: skip


def test_curves_are_measured_under_each_kind(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = paraphrases()[:5]
    monkeypatch.setattr("probes.measure.lexicalization.paraphrases", lambda: rows)
    backbone = tiny("qwen2")
    found = curves_by_prompt(backbone, seed=7)
    assert list(found) == list(PROMPT_KINDS)
    for kind, curves in found.items():
        expected = lexicalization_curves(backbone, curve_prompts(kind), seed=7)
        assert curves.to_json() == expected.to_json()
        assert len(curves.words) == 5
    assert len({str(curves.to_json()["alpha_mlp"]) for curves in found.values()}) == 3
    default = lexicalization_curves(backbone, seed=7)
    assert default.to_json() == found["word"].to_json()


@pytest.mark.parametrize("prompts", [[], ()])
def test_no_prompts_are_an_error(prompts: Any, tiny: Tiny) -> None:
    with pytest.raises(BadSetting, match="no prompts to measure"):
        lexicalization_curves(tiny("llama"), prompts)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(BadSetting, match=r"'e5v' is not a kind.*word, control, text"):
        curve_prompts("e5v")


# ------------------------------------------------------------------------------ real weights


def test_curves_of_real_weights_follow_their_definitions(smollm2: Backbone) -> None:
    """On prompts that turn in different places."""
    prompts = [curve_prompts(kind)[i] for kind in PROMPT_KINDS for i in (1, 2)][:5]
    check_curves("llama", smollm2, smollm2.model, prompts)


def test_where_the_state_turns_depends_on_the_prompt(smollm2: Backbone) -> None:
    """SmolLM2 turns in its last MLP when asked for a word, at its final norm on running text."""
    curves = {
        kind: lexicalization_curves(smollm2, curve_prompts(kind)[:6]) for kind in PROMPT_KINDS
    }
    for kind in ("word", "control"):
        assert curves[kind].onset == "attn[-1]"
        assert curves[kind].alpha_mlp.high[-1] < 0.15
        assert curves[kind].alpha_norm.low[0] > 0.8
        assert set(curves[kind].words) & {"The", "A", "This"}
    assert curves["text"].onset == "mlp[-1]"
    assert curves["text"].alpha_mlp.low[-1] > 0.7 > curves["text"].alpha_norm.high[0]
