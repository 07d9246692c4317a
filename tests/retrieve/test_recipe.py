"""A recipe follows from the report alone, says why, and is read back as it was written."""

import dataclasses
from typing import Any

import pytest

from freeret.recipe import Recipe
from probes.measure.diagnostic.hybrid import Hybrid
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.reranking import Fusion
from tests.measure.test_report import around, curves, frame_bias, make_report, setting


def chosen(**changes: Any) -> Recipe:
    return Recipe.from_report(make_report(**changes))


REFERENCES = [setting("e5v", "norm", "none", 0.2), setting("control", "attn[-1]", "none", 0.3)]


# ----------------------------------------------------------------------------------- stage 1


def test_the_best_setting_is_chosen() -> None:
    recipe = chosen()
    assert (recipe.prompt, recipe.site, recipe.geometry) == ("prompteol", "mlp[-1]", "whiten")


@pytest.mark.parametrize("best", range(4))
def test_any_extraction_can_be_chosen(best: int) -> None:
    kinds = [("control", "attn[-2]", "none"), ("e5v", "norm", "centre"),
             ("prompteol", "mlp[-3]", "whiten"), ("hierarchical", "attn[-1]", "none")]  # fmt: skip
    rows = [setting(*k, 0.9 if i == best else 0.5) for i, k in enumerate(kinds)]  # type: ignore[arg-type]
    recipe = chosen(diagnostic=REFERENCES + rows)
    assert (recipe.prompt, recipe.site, recipe.geometry) == kinds[best]


def test_a_site_gives_way_to_one_nearer_the_papers_unless_it_is_surely_better() -> None:
    """Half an interval of 0.06 is two standard errors of 0.03."""
    rows = [setting("prompteol", "mlp[-2]", "centre", 0.80, half=0.06),
            setting("prompteol", "norm", "centre", 0.79, half=0.06),
            setting("prompteol", "attn[-1]", "centre", 0.78, half=0.06)]  # fmt: skip
    recipe = chosen(diagnostic=REFERENCES + rows)
    assert recipe.site == "attn[-1]"
    assert any(
        "of 3 sites are within one" in r and "attn[-1] is one of them" in r for r in recipe.reasons
    )
    sure = [dataclasses.replace(row, reciprocal_rank=around(row.reciprocal_rank.mean, 0.001))
            for row in rows]  # fmt: skip
    assert chosen(diagnostic=REFERENCES + sure).site == "mlp[-2]"
    far = [dataclasses.replace(rows[0], site="attn[-3]"), rows[1]]
    recipe = chosen(diagnostic=REFERENCES + far)
    assert recipe.site == "norm"
    assert any("norm is the closest of them to the paper's attn[-1]" in r for r in recipe.reasons)


@pytest.mark.parametrize(("plain", "site"), [(0.78, "attn[-2]"), (0.76, "norm+mean")])
def test_a_mean_is_read_only_where_it_is_surely_better(plain: float, site: str) -> None:
    """Half an interval of 0.06 is two standard errors of 0.03, so 0.77 is within noise of 0.80.
    Without the mean another prompt is the best one, and its site nearer the paper's is taken."""
    rows = [setting("prompteol", "norm+mean", "centre", 0.80, half=0.06),
            setting("prompteol", "attn[-1]", "centre", 0.70, half=0.06),
            setting("topic", "mlp[-3]", "whiten", plain, half=0.06),
            setting("topic", "attn[-2]", "whiten", plain - 0.02, half=0.06),
            setting("topic", "attn[-1]+mean", "whiten", 0.79, half=0.06)]  # fmt: skip
    recipe = chosen(diagnostic=REFERENCES + rows)
    assert recipe.site == site
    [said] = [r for r in recipe.reasons if r.startswith("Mean")]
    assert f"0.800, the best without it {plain:.3f}." in said
    assert ("not read" in said) == ("mean" not in site)


@pytest.mark.parametrize("better", ["mlp[-1]", "mlp[-2]"])
def test_of_two_sites_at_the_same_distance_the_better_one_is_chosen(better: str) -> None:
    rows = [setting("prompteol", site, "centre", 0.80 if site == better else 0.79, half=0.06)
            for site in ("mlp[-2]", "mlp[-1]")]  # fmt: skip
    assert chosen(diagnostic=REFERENCES + rows).site == better
    assert chosen(diagnostic=REFERENCES + rows[::-1]).site == better


def test_pictures_count_as_much_as_texts() -> None:
    texts = setting("prompteol", "attn[-1]", "whiten", 0.9)
    both = setting("prompteol", "attn[-1]", "centre", 0.8)
    seen = [dataclasses.replace(row, pictures=around(found)) for row, found in
            ((texts, 0.2), (both, 0.6), *((r, 0.1) for r in REFERENCES))]  # fmt: skip
    assert chosen(diagnostic=[*REFERENCES, texts, both]).geometry == "whiten"
    recipe = chosen(diagnostic=seen)
    assert recipe.geometry == "centre"
    assert any("caption ranks its picture" in r and "0.6" in r for r in recipe.reasons)


def test_noise_is_that_of_texts_and_pictures_together() -> None:
    """The pictures' standard error of 0.05 makes a gap of 0.02 in their mean no gap."""
    rows = [dataclasses.replace(setting("prompteol", site, "centre", 0.8, half=0.001),
                                pictures=around(found, half))
            for site, found, half in (("mlp[-2]", 0.64, 0.1), ("attn[-1]", 0.60, 0.1))]  # fmt: skip
    seen = [dataclasses.replace(r, pictures=around(0.1)) for r in REFERENCES]
    assert chosen(diagnostic=[*seen, *rows]).site == "attn[-1]"
    sure = [dataclasses.replace(row, pictures=around(row.pictures.mean, 0.001)) for row in rows]  # type: ignore[union-attr]
    assert chosen(diagnostic=[*seen, *sure]).site == "mlp[-2]"


def test_the_site_is_explained_where_others_are_as_good() -> None:
    one = setting("prompteol", "attn[-1]", "centre", 0.8, half=0.06)
    two = setting("prompteol", "mlp[-2]", "centre", 0.79, half=0.06)
    far = setting("prompteol", "norm", "centre", 0.5, half=0.06)
    assert not [r for r in chosen(diagnostic=[*REFERENCES, one, far]).reasons if "Site:" in r]
    [said] = [r for r in chosen(diagnostic=[*REFERENCES, one, two]).reasons if "Site:" in r]
    assert "2 sites" in said


def test_pictures_are_quoted_in_their_order() -> None:
    """First the choice, then the E5-V extraction, then the paper's choice."""
    rows = [setting("prompteol", "attn[-1]", "centre", 0.8), *REFERENCES]
    seen = [dataclasses.replace(row, pictures=around(found))
            for row, found in zip(rows, (0.7, 0.2, 0.3), strict=True)]  # fmt: skip
    [said] = [r for r in chosen(diagnostic=seen).reasons if r.startswith("Pictures")]
    places = [said.index(str(around(found))) for found in (0.7, 0.2, 0.3)]
    assert places == sorted(places)


def test_noise_never_changes_prompt_or_geometry() -> None:
    rows = [setting("prompteol", "attn[-1]", "centre", 0.80, half=0.1),
            setting("prompteol", "mlp[-1]", "whiten", 0.799, half=0.1),
            setting("control", "mlp[-1]", "centre", 0.799, half=0.1)]  # fmt: skip
    recipe = chosen(diagnostic=REFERENCES + rows)
    assert (recipe.prompt, recipe.site, recipe.geometry) == ("prompteol", "attn[-1]", "centre")


def test_reasons_quote_the_figures() -> None:
    report = make_report()
    said = "\n".join(Recipe.from_report(report).reasons)
    best, e5v, paper = (report.diagnostic[i].reciprocal_rank for i in (2, 0, 1))
    for interval in (best, e5v, paper, report.framing[1].auc, report.reranking[1].gain):
        assert str(interval) in said
    assert "0.10" in said, "alpha of the last MLP"
    assert "0.90" in said, "alpha of the final norm"


@pytest.mark.parametrize(
    ("prompt", "order"),
    [("prompteol", ["word", "control", "text"]), ("control", ["control", "word", "text"])],
)
def test_the_turn_under_the_closest_kind_of_prompt_comes_first(
    prompt: str, order: list[str]
) -> None:
    by_kind = {"word": curves(0.1, 0.9), "control": curves(0.95, 0.2), "text": curves(0.95, 0.97)}
    turns = {
        "word": "asked for a word (E5-V's prompt), the last MLP (0.10, 0.90)",
        "control": "control prompt, the final norm (0.95, 0.20)",
        "text": "running text, no turn (0.95, 0.97)",
    }
    settings = [*REFERENCES, setting(prompt, "mlp[-1]", "whiten", 0.8)]
    reason = chosen(curves=by_kind, diagnostic=settings).reasons[0]
    assert reason.startswith("Which of the last two steps turns the state ")
    assert reason.endswith(f": {'; '.join(turns[kind] for kind in order)}.")


# ------------------------------------------------------------------- passages, tasks and words


def read_on(hybrid: float, passages: float, score: DiagnosticScore) -> DiagnosticScore:
    return dataclasses.replace(score, hybrid=around(hybrid), passages=around(passages))


@pytest.mark.parametrize(("hybrid", "passages"), [(0.99, 0.5), (0.80, 0.95)])
def test_only_prompts_that_read_passages_can_be_chosen(hybrid: float, passages: float) -> None:
    """Half of their quality is that of vectors alone, on paraphrases and passages: here 0.875, and
    less for what is better by words and vectors, or by vectors alone."""
    rows = [
        setting("hierarchical", "attn[-1]", "none", 0.99),
        read_on(0.90, 0.8, setting("prompteol", "attn[-1]", "whiten", 0.9)),
        read_on(hybrid, passages, setting("e5v", "attn[-1]", "whiten", 0.9)),
    ]
    recipe = chosen(diagnostic=REFERENCES + rows)
    assert (recipe.prompt, recipe.geometry) == ("prompteol", "whiten")
    [said] = [reason for reason in recipe.reasons if reason.startswith("Passages")]
    assert str(around(0.8)) in said
    assert str(around(0.9)) in said
    assert "None" not in "".join(recipe.reasons)


@pytest.mark.parametrize("task", [None, "question"])
def test_the_task_is_part_of_the_choice(task: str | None) -> None:
    rows = [
        dataclasses.replace(
            setting("control", "attn[-1]", "whiten", 0.9 if t == task else 0.8), task=t
        )
        for t in (None, "question")
    ]
    recipe = chosen(diagnostic=REFERENCES + rows)
    assert (recipe.prompt, recipe.task) == ("control", task)
    [said] = [reason for reason in recipe.reasons if reason.startswith("Task")]
    assert "0.900" in said
    assert "0.800" in said
    assert not [reason for reason in chosen().reasons if reason.startswith("Task")]


def gain(queries: Any, weight: float, mean: float, half: float = 0.02, rank: float = 0.9) -> Hybrid:
    return Hybrid(queries, weight, around(rank, 0.02), around(mean, half), around(0.05))


def test_one_weight_whose_gain_exceeds_noise_is_enough_for_words() -> None:
    """Weights 0.1 and 0.5 gain 0.04 and 0.06, with half intervals of 0.014 and 0.14."""
    hybrid = [gain("paraphrases", 0.1, 0.0), gain("passages", 0.1, 0.08),
              gain("paraphrases", 0.5, 0.0, 0.2), gain("passages", 0.5, 0.12, 0.2)]  # fmt: skip
    for rows in (hybrid, hybrid[::-1]):
        recipe = chosen(hybrid=rows)
        assert recipe.lexical == 0.5
        [said] = [reason for reason in recipe.reasons if reason.startswith("Lexical score")]
        assert "weight 0.5" in said
        assert "+0.120 over vectors alone and +0.050 over words alone" in said
    assert chosen(hybrid=hybrid[2:]).lexical == 0.0


def test_of_weights_within_one_standard_error_the_largest_is_chosen() -> None:
    """The standard error of the mean of two ranks is 0.02 / 1.96 / √2 = 0.0072."""
    ranks = {0.1: 0.950, 0.2: 0.952, 0.3: 0.946, 0.5: 0.944}
    rows = [gain(queries, weight, 0.05, rank=rank)
            for weight, rank in ranks.items() for queries in ("paraphrases", "passages")
    ]  # fmt: skip
    assert chosen(hybrid=rows).lexical == 0.3
    assert chosen(hybrid=rows[::-1]).lexical == 0.3


def test_no_lexical_weight_where_words_lose_as_much_as_they_gain() -> None:
    recipe = chosen(hybrid=[gain("paraphrases", 0.2, -0.07), gain("passages", 0.2, 0.08)])
    assert recipe.lexical == 0.0
    [said] = [reason for reason in recipe.reasons if "lexical" in reason]
    assert "does not exceed noise" in said
    assert chosen(hybrid=[]).lexical == 0.0


# ----------------------------------------------------------------------------------- stage 2


def test_the_best_frame_and_weight_are_chosen() -> None:
    recipe = chosen()
    assert (recipe.frame, recipe.fusion) == ("true_false", 0.5)


def test_stage_1_keeps_a_say_even_where_stage_2_alone_gains_more() -> None:
    fusions = [Fusion("true_false", 0.1, around(0.8), around(0.03)),
               Fusion("true_false", None, around(0.9), around(0.2))]  # fmt: skip
    recipe = chosen(reranking=fusions)
    assert (recipe.frame, recipe.fusion) == ("true_false", 0.1)
    none = chosen(reranking=[Fusion("true_false", 0.1, around(0.8), around(0.0)), fusions[1]])
    assert none.frame is None
    assert str(fusions[1].gain) not in none.why_not_reranked


def test_no_frame_is_chosen_where_every_auc_is_at_chance() -> None:
    framing = [frame_bias("mcq", 0.52, half=0.05), frame_bias("yes_no", 0.54, half=0.05)]
    recipe = chosen(framing=framing, reranking=[])
    assert recipe.frame is None
    assert recipe.reasons[-1].startswith("No reranking")
    assert str(framing[1].auc) in recipe.reasons[-1]
    assert recipe.why_not_reranked in recipe.reasons[-1]
    assert "includes chance" in recipe.why_not_reranked


def test_no_frame_when_judging_gains_nothing() -> None:
    recipe = chosen(reranking=[Fusion("true_false", 0.5, around(0.8), around(0.02, half=0.02))])
    assert recipe.frame is None
    assert "does not exceed noise" in recipe.reasons[-1]


def test_where_no_judge_gains_the_largest_gain_is_quoted() -> None:
    small = Fusion("true_false", 0.05, around(0.8), around(0.0, half=0.0))
    large = Fusion("true_false", 2.0, around(0.8), around(0.03, half=0.05))
    for fusions in ([small, large], [large, small]):
        recipe = chosen(reranking=fusions)
        assert recipe.frame is None
        assert str(large.gain) in recipe.why_not_reranked


def test_the_likelihood_is_chosen_where_every_frame_is_at_chance() -> None:
    framing = [frame_bias("mcq", 0.52, half=0.05)]
    sure = [
        Fusion("likelihood", 0.5, around(0.8), around(0.07, half=0.02), "paraphrases"),
        Fusion("likelihood", 0.5, around(0.8), around(0.01, half=0.02), "passages"),
    ]
    recipe = chosen(framing=framing, reranking=sure)
    assert (recipe.frame, recipe.fusion, recipe.why_not_reranked) == ("likelihood", 0.5, "")
    for fusion in sure:
        assert str(fusion.gain) in recipe.reasons[-1]
    assert "by likelihood and orders them by" in str(recipe)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_every_judge_that_was_tried_is_quoted_where_none_gains() -> None:
    tried = [
        Fusion("likelihood", 0.5, around(0.8), around(0.01, half=0.02)),
        Fusion("true_false", 0.2, around(0.8), around(0.0, half=0.02)),
    ]
    recipe = chosen(reranking=tried)
    assert recipe.frame is None
    for fusion in tried:
        assert f"by {fusion.frame} (weight {fusion.weight}), {fusion.gain}" in recipe.reasons[-1]


def test_the_surest_gain_is_chosen_not_the_largest() -> None:
    large = Fusion("true_false", 1.0, around(0.9), around(0.08, half=0.07))
    sure = Fusion("true_false", 2.0, around(0.88), around(0.06, half=0.03))
    assert chosen(reranking=[large, sure]).fusion == 2.0
    assert chosen(reranking=[sure, large]).fusion == 2.0
