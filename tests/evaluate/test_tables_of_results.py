"""Tables of saved results, and the model card of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeret.evaluate.ablation.file import Ablations
from freeret.evaluate.ablation.measure import Ablation, Point, Row
from freeret.evaluate.ablation.tables import ablated_means, ablation_tables, mean_interval_of
from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.metrics import Scores, mean_of, parse_metric
from freeret.evaluate.results.file import DatasetResult, Measured, Result
from freeret.evaluate.results.published import published
from freeret.evaluate.results.tables import (
    ResultTable,
    name_apart,
    published_table,
    result_tables,
)
from freeret.evaluate.skipping import Skipped
from freeret.recipe import Recipe
from tests.commands import run


def entry(
    group: str, drawn_from: tuple[int, int] | None = None, **values: Sequence[float]
) -> DatasetResult:
    metrics = {
        name.replace("_at_", "@"): Measured(
            interval=(sum(found) / len(found), 0.0, 1.0),
            per_query={f"q{i}": value for i, value in enumerate(found)},
        )
        for name, found in values.items()
    }
    queries = len(next(iter(values.values())))
    return DatasetResult(
        digest="d", group=group, task="t", note="", queries=queries, documents=40,
        metrics=metrics, drawn_from=drawn_from, grades=None,
    )  # fmt: skip


PAPER_PROMPT = {"kind": "control", "task": "question", "grounding": True, "denoise": True}
E5V_PROMPT = {"kind": "template", "name": "e5v"}
QWEN_7B, QWEN_3B = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"


def result(
    run: str,
    datasets: dict[str, DatasetResult],
    depth: int = 0,
    model: str = "tiny",
    frame: str = "mcq",
    **system: Any,
) -> Result:
    stage1 = {"prompts": [PAPER_PROMPT], "site": "attn[3]", "geometry": "none", **system}
    first = {"frame": frame, "fusion": None, "first_stage": {"run": run, **stage1}}
    made = Result(
        run=f"{run}-top{depth}" if depth else run,
        system=stage1,
        fingerprint={"model": model, "layers": 4},
        versions={},
        seed=0,
        stage2={"depth": depth, **first} if depth else None,
    )
    made.datasets |= datasets
    made.timings |= {name: {"seconds": 1.26} for name in datasets}
    last = list(datasets)[-1]
    made.add(last, datasets[last], made.timings[last])  # the means
    return made


def tables_of(*results: Result) -> list[ResultTable]:
    return result_tables(name_apart([(Path(f"{i}.json"), r) for i, r in enumerate(results)]))


def published_beside(*results: Result) -> ResultTable:
    return published_table(name_apart([(Path(f"{i}.json"), r) for i, r in enumerate(results)]))


def whole_mmeb(run: str, depth: int = 0, names: Sequence[str] = mmeb.NAMES, **more: Any) -> Result:
    groups = {name: group for group, (_, found) in mmeb.GROUPS.items() for name in found}
    inside = [1.0, 1.0], [0.0, 1.0]
    return result(
        run,
        {name: entry(groups[name], P_at_1=inside[name not in mmeb.IN_DOMAIN]) for name in names},
        depth,
        **more,
    )


def row(table: ResultTable, *cells: str) -> list[str]:
    [found] = [row for row in table.rows if set(cells) <= set(row)]
    return found


def test_every_metric_is_a_column_with_queries_documents_and_seconds() -> None:
    ours = result("recipe", {"one": entry("text retrieval", P_at_1=[1, 0], nDCG_at_10=[1, 1])})
    other = result("bm25", {"one": entry("text retrieval", P_at_1=[0, 0], nDCG_at_10=[0, 1])})
    [table] = tables_of(ours, other)
    assert table.title == "Text retrieval"
    assert table.columns == [
        "dataset", "run", "queries", "documents", "P@1 [95% interval]",
        "nDCG@10 [95% interval]", "seconds",
    ]  # fmt: skip
    assert table.rows == [
        ["one", "recipe", "2", "40", "0.500 [0.000, 1.000]", "1.000 [0.000, 1.000]", "1.3"],
        ["one", "bm25", "2", "40", "0.000 [0.000, 1.000]", "0.500 [0.000, 1.000]", "1.3"],
    ]


def test_a_mean_never_repeats_another_row_nor_mixes_metrics() -> None:
    names = {"one": entry("g", P_at_1=[1, 1]), "two": entry("g", P_at_1=[0, 0])}
    tables = tables_of(result("recipe", names))
    assert [table.title for table in tables] == ["G", "Means"]
    assert tables[-1].columns == ["mean over", "datasets", "run", "metric", "mean [95% interval]"]
    assert tables[-1].rows == [["g", "2", "recipe", "P@1", "0.500 [0.500, 0.500]"]]
    names["three"] = entry("h", MRR=[1, 1])
    three = result("recipe", names)
    assert "all" not in three.means
    assert [line[0:4] for line in tables_of(three)[-1].rows] == [
        ["g", "2", "recipe", "P@1"], ["all", "2", "recipe", "P@1"],
    ]  # fmt: skip


def test_mmeb_is_grouped_as_in_the_paper() -> None:
    e5v = {"prompts": [E5V_PROMPT], "site": "norm", "model": QWEN_7B}
    tables = tables_of(
        whole_mmeb("paper", model=QWEN_7B), whole_mmeb("paper", 50, model=QWEN_7B),
        whole_mmeb("e5v", **e5v),
    )  # fmt: skip
    assert [table.title.lower() for table in tables] == [*mmeb.GROUPS, "means"]
    assert [len(table.rows) for table in tables[:4]] == [30, 30, 36, 12]
    means = tables[-1]
    assert means.columns[-1] == "in the paper"
    assert row(means, "MMEB, in-domain", "paper")[1:5] == [
        "20", "paper", "P@1", "1.000 [1.000, 1.000]",
    ]  # fmt: skip
    assert row(means, "MMEB, out-of-domain", "paper")[1] == "16"
    assert row(means, "MMEB", "paper")[-1] == "0.537 (Qwen2.5-VL-7B)"
    assert row(means, "MMEB", "paper-top50")[-1] == "0.707 (Qwen2.5-VL-7B)"
    assert row(means, "MMEB", "e5v")[-1] == "0.398 (Qwen2.5-VL-7B)"
    assert {line[-1] for line in means.rows if line[0] != "MMEB"} == {""}
    assert not any(line[0] == "all" for line in means.rows)


def test_a_part_of_a_suite_is_marked_and_has_no_value_of_the_paper_beside_it() -> None:
    means = tables_of(whole_mmeb("paper", names=mmeb.NAMES[:-1], model=QWEN_7B))[-1]
    assert means.columns[-1] == "remarks"
    assert row(means, "MMEB", "paper")[-1] == "35 of 36 datasets"
    other = result("paper", {name: entry("g", P_at_1=[1, 0]) for name in mmeb.NAMES}, model=QWEN_7B)
    assert tables_of(other)[-1].columns[-1] != "in the paper", "only named as MMEB's are"


def measured(table: ResultTable, method: str, model: str) -> str:
    [cell] = [line[-1] for line in table.rows if line[1:3] == [method, model]]
    return cell


def test_a_run_stands_beside_the_value_of_its_model_and_method_alone() -> None:
    blank = published_table({})
    assert len(blank.rows) == len(published().values)
    assert {line[-1] for line in blank.rows} == {"", "not run"}
    seven = published_beside(whole_mmeb("paper", model=QWEN_7B))
    assert measured(seven, "FreeRet-embed", "Qwen2.5-VL-7B").startswith("0.778 [")
    assert measured(seven, "extraction at h^Attn_L", "Qwen2.5-VL-3B") == "not run"
    cache = "/root/.cache/hub/models--Qwen--Qwen2.5-VL-3B-Instruct/snapshots/0a1b"
    three = published_beside(whole_mmeb("paper", 50, model=cache))
    assert measured(three, "reranking by a multiple-choice question", "Qwen2.5-VL-3B") != "not run"
    assert sum(line[-1] == "not run" for line in three.rows) == (
        sum(line[-1] == "not run" for line in blank.rows) - 1
    )
    assert len(seven.rows) == len(three.rows) == len(blank.rows)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "smolsight"},
        {"model": "Qwen/Qwen2.5-VL-72B-Instruct"},
        {"prompts": [E5V_PROMPT], "site": "attn[0]", "geometry": "whiten"},
        {"site": "attn[2]"},
        {"geometry": "centre"},
        {"recipe": {"lexical": 0.5}},
        {"depth": 50, "recipe": {"lexical": 0.5}},
        {"prompts": [{**PAPER_PROMPT, "denoise": False}]},
        {"prompts": [PAPER_PROMPT, E5V_PROMPT]},
        {"depth": 10, "frame": "yes_no"},
        {"depth": 7},
    ],
)
def test_other_measurements_have_rows_of_their_own(other: dict[str, Any]) -> None:
    table = published_beside(whole_mmeb("recipe", **{"model": QWEN_7B, **other}))
    values = published().values
    assert {line[-1] for line in table.rows[: len(values)]} == {"", "not run"}
    [alone] = table.rows[len(values) :]
    assert alone[0] == "MMEB"
    assert alone[1].startswith("recipe")
    assert alone[2:4] == [other.get("model", QWEN_7B), ""]
    assert alone[4].startswith("0.778 [")


def test_a_quantised_model_has_a_row_of_its_own() -> None:
    run = whole_mmeb("paper", model=QWEN_7B)
    run.loading = {"quantize": "4bit"}
    [*_, alone] = published_beside(run).rows
    assert alone[1:4] == ["paper: control at attn[-1]", f"{QWEN_7B} (4bit)", ""]


def test_missing_parts_of_a_measurement_are_noted() -> None:
    """Three datasets of 36, one query of two in each, and one skipped: there is no interval."""
    names = ("ChartQA", "GQA", "OVEN")
    drawn = {
        name: entry("retrieval" if name == "OVEN" else "question answering", (2, 40), P_at_1=[1])
        for name in names
    }
    run = result("paper", drawn, model=QWEN_7B)
    run.datasets["GQA"].skipped = [Skipped("query", "q0", "broken")]
    lacking = "3 of 36 datasets, 3 of 6 queries, 1 skipped"
    table = published_beside(run)
    assert measured(table, "FreeRet-embed", "Qwen2.5-VL-7B") == f"1.000 ({lacking})"
    assert row(tables_of(run)[-1], "MMEB")[4:] == ["1.000", lacking]


def test_runs_of_one_name_are_told_apart() -> None:
    names = {"one": entry("g", P_at_1=[1, 1]), "two": entry("g", P_at_1=[0, 0])}
    less = {"two": entry("g", P_at_1=[1, 1])}
    one, other = result("paper", names), result("paper", less, model="other")
    [table, means] = tables_of(one, other)
    assert [line[:2] for line in table.rows] == [
        ["one", "paper (tiny)"], ["two", "paper (tiny)"], ["two", "paper (other)"],
    ]  # fmt: skip
    assert means.rows == [["g", "2", "paper (tiny)", "P@1", "0.500 [0.500, 0.500]"]]
    files = [(Path("a/paper.json"), one), (Path("b/paper.json"), one), (Path("bm25.json"), other)]
    other.run = "bm25"
    assert list(name_apart(files)) == [
        "paper (tiny) (a/paper.json)", "paper (tiny) (b/paper.json)", "bm25",
    ]  # fmt: skip


def ablations(model: str = QWEN_3B) -> Ablations:
    """Two datasets of MMEB; values are 0.2 and 0.4 at attn[-1], the frames gain 0.1."""

    def one(value: float) -> Ablation:
        span = (value, value - 0.03, value + 0.04)
        better = (value + 0.1, value, value + 0.2)
        rows = [
            Row("choice", "FreeRet-embed", span, (0.0, 0.0, 0.0), 1.0),
            Row("site", "attn[-1]", span, (0.0, 0.0, 0.0), 1.0),
            Row("frame", "yes_no", better, (0.0, 0.0, 0.0), 1.0, depth=50),
            Row("frame", "recipe", better, (0.0, 0.0, 0.0), 1.0, depth=50),
        ]
        grid = [Point("control", "attn[-1]", "none", value)]
        return Ablation("d", "P@1", 9, 9, "", rows, grid, group="question answering")

    return Ablations(
        {"model": model, "layers": 4}, Recipe.paper(), ["control"], [50], 0,
        {"ChartQA": one(0.2), "GQA": one(0.4)}, {},
    )  # fmt: skip


def test_an_ablation_has_means_over_its_datasets() -> None:
    *_, means, regret = ablation_tables(ablations())
    assert means.title == "mean of 2 datasets"
    assert means.columns == ["part", "choice", "P@1 [95%]"]
    assert means.rows[1] == ["site", "attn[-1]", "0.300 [0.279, 0.328]"]
    assert means.rows[2][:2] == ["frame", "yes_no, top 50"]
    assert regret.title == "Regret of the recipe's choices"


def test_the_mean_of_intervals_is_that_of_independent_samples() -> None:
    draw = np.random.default_rng(0)
    samples = [draw.random(200) < p for p in (0.2, 0.5, 0.7)]
    scores = [Scores(parse_metric("P@1"), sample.astype(float)) for sample in samples]
    expected = mean_of(scores)
    found = mean_interval_of([one.interval(i) for i, one in enumerate(scores)])
    assert found.mean == pytest.approx(expected.mean)
    assert found.low == pytest.approx(expected.low, abs=0.004)
    assert found.high == pytest.approx(expected.high, abs=0.004)


def test_ablations_show_themselves_and_are_a_data_frame() -> None:
    made = ablations()
    frame = made.to_dataframe()
    rows = [(name, row) for name, each in made.datasets.items() for row in each.rows]
    assert list(frame.dataset) == [name for name, _ in rows]
    assert list(frame.value_low) == [row.interval[1] for _, row in rows]
    assert list(frame.difference) == [row.difference[0] for _, row in rows]
    assert rows[0][1].label in made._repr_html_()
    assert len(repr(made)) < 100


def test_a_result_shows_itself_and_is_a_data_frame() -> None:
    made = result("r", {"<b>": entry("g", P_at_1=[1.0, 0.0], MRR=[1.0, 0.5])})
    frame = made.to_dataframe()
    assert list(frame.metric) == ["P@1", "MRR"]
    assert list(frame.value) == [0.5, 0.75]
    assert list(frame.value_high) == [1.0, 1.0]
    assert "&lt;b&gt;" in made._repr_html_()
    assert repr(made) == "Result('r', 1 datasets)"


def test_an_ablation_fills_table_3_of_the_paper() -> None:
    table = published_table({}, ablated_means(ablations(), "ablation"))
    lacking = "2 of 36 datasets"
    beside = measured(table, "extraction at h^Attn_L", "Qwen2.5-VL-3B")
    assert beside == f"0.300 [0.279, 0.328] ({lacking})"
    assert measured(table, "reranking by Yes/No", "Qwen2.5-VL-3B").startswith("0.400 [")
    assert measured(table, "reranking by Yes/No", "Qwen2.5-VL-7B") == "not run"
    assert len(table.rows) == len(published().values)
    other = published_table({}, ablated_means(ablations("tiny"), "ablation"))
    assert len(other.rows) == len(published().values) + 2


def test_content_cannot_break_a_table_of_markdown() -> None:
    text = ResultTable("a | b", ["x"], [["1 | 2\n| 3 | <b>"]]).markdown()
    assert text.splitlines() == [
        "**a \\| b**",
        "",
        "| x |",
        "| --- |",
        "| 1 \\| 2 \\| 3 \\| &lt;b> |",
    ]


def test_saved_results_are_printed_without_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = result("recipe", {"one": entry("g", P_at_1=[1, 0])}).save(tmp_path / "recipe.json")
    run("table", file)
    said = capsys.readouterr().out
    assert "0.500 [0.000, 1.000]" in said
    assert str(file) in said
    run("table", file, "--markdown")
    said = capsys.readouterr().out
    assert "| one | recipe | 2 | 40 | 0.500 [0.000, 1.000] | 1.3 |" in said
    assert str(file) not in said
    ablations().save(tmp_path / "more" / "ablation.json")
    (tmp_path / "more" / "recipe.json").write_text("{}")
    assert run("table", tmp_path) == 0
    said = capsys.readouterr().out
    assert "0.500 [0.000, 1.000]" in said
    assert "mean of 2 datasets" in said
    assert run("table", tmp_path / "more" / "recipe.json") == 1
    assert "neither a result of `freeret eval` nor an ablation" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert run("table", tmp_path / "none") == 1
    assert "holds no result" in capsys.readouterr().err
    run("table", "--paper", "--markdown")
    assert "| MMEB | FreeRet-embed | Qwen2.5-VL-7B | 0.537 | not run |" in capsys.readouterr().out
    assert run("table") == 1
    assert "name at least one result" in capsys.readouterr().err
