"""Frames: the right tokens are compared, the whole prompt is what is judged, figures add up."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from probes.data import matches
from probes.errors import UnsupportedBackbone
from probes.items import Item
from probes.measure.framing import (
    CONTENT_FREE,
    FRAMES,
    SWAPPED,
    Frame,
    FrameBias,
    Labels,
    best_frame,
    content_free_margin,
    framing_bias,
    judge,
)
from probes.model.backbone import Backbone
from probes.model.batches.prefix import common_prefix
from probes.stats import Interval, mean_interval, paired_auc
from tests.models import TEXT, tokenizer

Tiny = Callable[[str], Backbone]
EVERY = list(dict.fromkeys([*FRAMES.values(), *SWAPPED.values()]))
PAIRS = [("the word", "one of the image"), ("Yes", "日本 🙂"), ("the word", "a" * 40), ("n", "No")]


def backbone_with(merges: Sequence[tuple[str, str]]) -> Backbone:
    """A backbone whose tokenizer makes bytes, and tokens of these merges alone."""
    merged = ["".join(pair) for pair in merges]
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + merged
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = hf.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")
    return Backbone.load(TEXT["llama"](), tokenizer=made)


def from_full_logits(backbone: Backbone, frame: Frame, query: str, candidate: str, **how: Any):
    """The margin by the plain model: every logit of the whole prompt, alone in its batch."""
    batch = backbone.encode([frame.apply(Item(query), Item(candidate), **how)])
    with torch.no_grad():
        p = backbone.model(**batch.inputs).logits[0, -1].double().softmax(-1)
    vocabulary = backbone.tokenizer.get_vocab()
    positive, negative = (
        sum(p[vocabulary[form]] for form in (label, f"Ġ{label}"))
        for label in (frame.positive, frame.negative)
    )
    return float(positive.log() - negative.log())


# ------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=list(FRAMES))
def test_labels_count_with_and_without_a_leading_space(frame: Frame, chat: bool) -> None:
    tok = tokenizer(chat=chat)
    labels = Labels.of(Backbone.load(TEXT["llama"](), tokenizer=tok), frame)
    vocabulary = tok.get_vocab()
    assert set(labels.positive) == {vocabulary[frame.positive], vocabulary[f"Ġ{frame.positive}"]}
    assert set(labels.negative) == {vocabulary[frame.negative], vocabulary[f"Ġ{frame.negative}"]}
    assert labels.single_token


def test_a_spelling_of_several_tokens_is_left_out() -> None:
    """Its first token would be the space that every word shares."""
    backbone = backbone_with([("Y", "e"), ("Ye", "s"), ("N", "o")])
    labels = Labels.of(backbone, FRAMES["yes_no"])
    vocabulary = backbone.tokenizer.get_vocab()
    assert (labels.positive, labels.negative) == ((vocabulary["Yes"],), (vocabulary["No"],))
    assert labels.single_token


def test_labels_of_several_tokens_are_judged_by_their_first_token() -> None:
    backbone = backbone_with([("Ġ", "Y"), ("Ġ", "N")])
    labels = Labels.of(backbone, FRAMES["yes_no"])
    vocabulary = backbone.tokenizer.get_vocab()
    assert set(labels.positive) == {vocabulary["Y"], vocabulary["ĠY"]}
    assert not labels.single_token


def test_labels_that_begin_alike_are_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match="'yes_no': 'Yes' and 'No' begin with the same"):
        Labels.of(backbone_with([]), FRAMES["yes_no"])


# ------------------------------------------------------------------------------------ frames


@pytest.mark.parametrize("frame", EVERY, ids=lambda f: f.name)
def test_a_frame_says_what_its_positive_label_means(frame: Frame) -> None:
    options = frame.options
    assert frame.positive in options
    assert frame.negative in options
    if frame.name.startswith("mcq"):
        assert f"{frame.positive}. Match" in options
        assert f"{frame.negative}. No match" in options


@pytest.mark.parametrize("name", FRAMES)
def test_swapping_changes_only_the_order_of_the_options(name: str) -> None:
    """Meanings keep their words: what is first and what is second changes places."""
    frame, swapped = FRAMES[name], SWAPPED[name]
    words = ("Match", "No match") if name.startswith("mcq") else (frame.positive, frame.negative)

    def order(options: str) -> bool:
        body = options.split("\n", 1)[-1] if name.startswith("mcq") else options.split("nswer")[1]
        places = [body.rindex(f" {word}") for word in words]
        return places[0] < places[1]

    assert order(frame.options) != order(swapped.options)
    assert sorted(frame.options) == sorted(swapped.options)


@pytest.mark.parametrize("layout", ["options first", "options last"])
def test_the_prompt_has_its_pieces_in_the_order_of_the_layout(layout: Any, tiny: Tiny) -> None:
    backbone, frame = tiny("llama"), FRAMES["mcq"]
    prompted = frame.apply(Item("QUERY"), Item("CANDIDATE"), "INSTRUCTION", layout)
    text = backbone.tokenizer.decode(backbone.row(prompted).ids)
    order = ["INSTRUCTION", "A. Match", "QUERY", "CANDIDATE"]
    if layout == "options last":
        order = ["INSTRUCTION", "QUERY", "CANDIDATE", "A. Match"]
    places = [text.index(word) for word in order]
    assert places == sorted(places)
    assert text.endswith("<|im_start|>assistant\nAnswer:")


def test_a_base_model_gets_the_answer_cue_too(tiny: Tiny) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(chat=False))
    row = backbone.row(FRAMES["mcq"].apply(Item("q"), Item("c")))
    assert backbone.tokenizer.decode(row.ids).endswith("Candidate: c\nAnswer:")


def test_candidates_of_a_query_share_the_prompt_up_to_the_candidate(tiny: Tiny) -> None:
    backbone = tiny("llama")
    rows = [backbone.row(FRAMES["mcq"].apply(Item("q"), Item(c))) for c in ("x y", "1", "zz")]
    shared = backbone.tokenizer.decode(common_prefix(rows))
    assert shared.rstrip().endswith("Query: q\n\nCandidate:")


@given(st.data())
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_content_opens_no_turn(tiny: Tiny, data: st.DataObject) -> None:
    backbone = tiny("llama")
    control = backbone.encoder.plain.control_ids
    pieces = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "assistant\n", "A", "\n", "Answer:"]
    text = "".join(data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=12))) + "."
    for frame in FRAMES.values():
        rows = [backbone.row(frame.apply(Item(q), Item(c))) for q, c in (("x", "x"), (text, text))]
        plain, attacked = ([i for i in row.ids if i in control] for row in rows)
        assert plain == attacked


# ----------------------------------------------------------------------------------- margins


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
@pytest.mark.parametrize("frame", EVERY, ids=lambda f: f.options[-12:])
def test_the_margin_is_that_of_the_plain_model(name: str, frame: Frame, tiny: Tiny) -> None:
    """Softcapping and scaling of the logits included."""
    backbone = tiny(name)
    found = judge(backbone, frame, [(Item(q), Item(c)) for q, c in PAIRS])
    expected = [from_full_logits(backbone, frame, q, c) for q, c in PAIRS]
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "how", [{"layout": "options last"}, {"instruction": "Say whether they rhyme."}]
)
def test_instruction_and_layout_reach_the_model(how: dict[str, Any], tiny: Tiny) -> None:
    backbone, frame = tiny("llama"), FRAMES["mcq"]
    pairs = [(Item(q), Item(c)) for q, c in PAIRS]
    found = judge(backbone, frame, pairs, **how)
    expected = [from_full_logits(backbone, frame, q, c, **how) for q, c in PAIRS]
    assert np.abs(found - judge(backbone, frame, pairs)).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4)
    free = [from_full_logits(backbone, frame, text, text, **how) for text in CONTENT_FREE]
    assert content_free_margin(backbone, frame, **how) == pytest.approx(np.mean(free), abs=1e-4)


# ----------------------------------------------------------------------------------- figures


def test_figures_of_a_frame_follow_from_its_margins(tiny: Tiny) -> None:
    backbone, frame = tiny("llama"), FRAMES["true_false"]
    [bias] = framing_bias(backbone, [frame])
    pairs = [(Item(row["query"]), Item(row["candidate"])) for row in matches()]
    margins = judge(backbone, frame, pairs)
    real = np.array([row["match"] for row in matches()])
    blank = content_free_margin(backbone, frame)
    assert bias.frame == "true_false"
    assert bias.margin == pytest.approx(blank)
    assert bias.skew == pytest.approx(1 / (1 + np.exp(-blank)))
    assert bias.accuracy.mean == pytest.approx(np.mean((margins > 0) == real))
    assert bias.accuracy_calibrated.mean == pytest.approx(np.mean((margins > blank) == real))
    assert bias.mean_p == pytest.approx(np.mean(1 / (1 + np.exp(-margins))), abs=1e-6)
    wins = margins[real][:, None] - margins[~real][None]
    assert bias.auc.mean == pytest.approx(np.mean((wins > 0) + (wins == 0) / 2))
    assert bias.auc.low <= bias.auc.mean <= bias.auc.high
    assert not bias.discriminates, "random weights cannot tell"


def test_figures_worked_by_hand(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two queries; log-odds 0.4 and 3 for the matches, -0.5 and 1.5 for the near-misses, 0.45
    without content: three of four are right at 0, and two of four above 0.45."""
    margins = {"a match": 0.4, "a near": -0.5, "b match": 3.0, "b near": 1.5}
    rows = [
        {"query": candidate[0], "candidate": candidate, "match": candidate.endswith("match")}
        for candidate in margins
    ]
    monkeypatch.setattr("probes.measure.framing.matches", lambda: rows)
    monkeypatch.setattr(
        "probes.measure.framing.judge",
        lambda _backbone, _frame, pairs, *_, **__: np.array(
            [margins.get(candidate.text, 0.45) for _, candidate in pairs]
        ),
    )
    [bias] = framing_bias(tiny("llama"), [FRAMES["mcq"]])
    assert bias.accuracy.mean == pytest.approx(3 / 4)
    assert bias.accuracy_calibrated.mean == pytest.approx(2 / 4)
    assert bias.auc.mean == pytest.approx(3 / 4)
    assert bias.margin == pytest.approx(0.45)
    assert bias.skew == pytest.approx(0.6106, abs=1e-4)
    assert bias.mean_p == pytest.approx((0.5987 + 0.9526 + 0.3775 + 0.8176) / 4, abs=1e-4)


def test_intervals_of_a_frame_are_over_queries(tiny: Tiny) -> None:
    """A query's match and near-miss are drawn together, and each AUC pairs whole queries."""
    backbone, frame = tiny("qwen2"), FRAMES["yes_no"]
    [bias] = framing_bias(backbone, {"any key": frame}, seed=9)
    queries = sorted({row["query"] for row in matches()})
    by_query: dict[tuple[str, bool], Item] = {
        (row["query"], row["match"]): Item(row["candidate"]) for row in matches()
    }
    assert len(by_query) == 2 * len(queries) == 200
    near, right = (
        judge(backbone, frame, [(Item(query), by_query[query, match]) for query in queries])
        for match in (False, True)
    )
    for found, shift in ((bias.accuracy, 0.0), (bias.accuracy_calibrated, bias.margin)):
        each = ((right > shift).astype(float) + (near <= shift)) / 2
        np.testing.assert_allclose(list(found), list(mean_interval(each, 9)), atol=1e-12)
    np.testing.assert_allclose(list(bias.auc), list(paired_auc(right, near, 9)), atol=1e-9)
    assert bias.frame == "yes_no"
    assert bias.single_token


def test_frames_are_measured_in_the_order_given(tiny: Tiny, monkeypatch: Any) -> None:
    rows = sorted(matches(), key=lambda row: row["query"])[:8]
    monkeypatch.setattr("probes.measure.framing.matches", lambda: rows)
    backbone = tiny("llama")
    assert [bias.frame for bias in framing_bias(backbone)] == list(FRAMES)
    biases = framing_bias(backbone, [FRAMES["yes_no"], FRAMES["mcq"]])
    assert [bias.frame for bias in biases] == ["yes_no", "mcq"]
    for bias in biases:
        alone = content_free_margin(backbone, FRAMES[bias.frame])
        assert bias.margin == pytest.approx(alone, abs=1e-5), "other batches, other rounding"


def bias(name: str, *area: float) -> FrameBias:
    whole = Interval(0.5, 0.5, 0.5)
    return FrameBias(name, 0.5, 0.0, whole, whole, Interval(*area), 0.5, True)


def test_an_interval_that_reaches_chance_does_not_discriminate() -> None:
    assert bias("a", 0.6, 0.51, 0.7).discriminates
    assert not bias("b", 0.6, 0.5, 0.7).discriminates
    chosen = [bias("a", 0.6, 0.5, 0.7), bias("b", 0.8, 0.7, 0.9), bias("c", 0.7, 0.6, 0.8)]
    assert best_frame(chosen).frame == "b"
