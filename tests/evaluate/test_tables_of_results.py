"""Tables of saved results, and the model card of a report."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import freeret
from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.loaders.mmeb.video import CLASSIFICATION
from freeret.evaluate.results.file import DatasetResult, Measured, Result
from freeret.evaluate.results.published import published
from freeret.evaluate.results.tables import ResultTable, published_table, result_tables
from freeret.pages.card import model_card
from freeret.recipe import Recipe
from probes import ProbeReport
from probes.data import REPORTS
from tests.commands import run


def entry(group: str, **values: Sequence[float]) -> DatasetResult:
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
        metrics=metrics, grades=None,
    )  # fmt: skip


def result(run: str, datasets: dict[str, DatasetResult], depth: int = 0) -> Result:
    stage2 = {"depth": depth, "first_stage": {"run": run}} if depth else None
    made = Result(
        run=f"{run}-top{depth}" if depth else run, system={}, fingerprint={"model": "tiny"},
        versions={}, seed=0, stage2=stage2,
    )  # fmt: skip
    for name, one in datasets.items():
        made.add(name, one, {"seconds": 1.26})
    return made


def whole_mmeb(run: str, depth: int = 0, names: Sequence[str] = mmeb.NAMES) -> Result:
    groups = {name: group for group, (_, found) in mmeb.GROUPS.items() for name in found}
    inside = [1.0, 1.0], [0.0, 1.0]
    return result(
        run,
        {name: entry(groups[name], P_at_1=inside[name not in mmeb.IN_DOMAIN]) for name in names},
        depth,
    )


def row(table: ResultTable, *cells: str) -> list[str]:
    [found] = [row for row in table.rows if set(cells) <= set(row)]
    return found


def test_every_metric_is_a_column_with_queries_documents_and_seconds() -> None:
    ours = result("recipe", {"one": entry("text retrieval", P_at_1=[1, 0], nDCG_at_10=[1, 1])})
    other = result("bm25", {"one": entry("text retrieval", P_at_1=[0, 0], nDCG_at_10=[0, 1])})
    [table] = result_tables([ours, other])
    assert table.title == "Text retrieval"
    assert table.columns == [
        "dataset", "run", "queries", "documents", "P@1 [95% interval]",
        "nDCG@10 [95% interval]", "seconds",
    ]  # fmt: skip
    assert table.rows == [
        ["one", "recipe", "2", "40", "0.500 [0.000, 1.000]", "1.000 [0.000, 1.000]", "1.3"],
        ["one", "bm25", "2", "40", "0.000 [0.000, 1.000]", "0.500 [0.000, 1.000]", "1.3"],
    ]


def test_a_mean_never_repeats_another_row() -> None:
    names = {"one": entry("g", P_at_1=[1, 1]), "two": entry("g", P_at_1=[0, 0])}
    tables = result_tables([result("recipe", names)])
    assert [table.title for table in tables] == ["G", "Means"]
    assert tables[-1].columns == ["mean over", "datasets", "run", "main metric [95% interval]"]
    assert tables[-1].rows == [["g", "2", "recipe", "0.500 [0.500, 0.500]"]]
    names["three"] = entry("h", MRR=[1, 1])
    means = result_tables([result("recipe", names)])[-1]
    assert [line[0] for line in means.rows] == ["g", "all"]


def test_mmeb_is_grouped_as_in_the_paper() -> None:
    tables = result_tables([whole_mmeb("paper"), whole_mmeb("paper", 50), whole_mmeb("e5v")])
    assert [table.title.lower() for table in tables] == [*mmeb.GROUPS, "means"]
    assert [len(table.rows) for table in tables[:4]] == [30, 30, 36, 12]
    means = tables[-1]
    assert means.columns[-1] == "in the paper"
    assert row(means, "MMEB, in-domain", "paper")[1:4] == ["20", "paper", "1.000 [1.000, 1.000]"]
    assert row(means, "MMEB, out-of-domain", "paper")[1] == "16"
    assert row(means, "MMEB", "paper-top50")[-1] == "0.707 (Qwen2.5-VL-7B), 0.603 (Qwen2.5-VL-3B)"
    assert row(means, "MMEB", "e5v")[-1] == "0.398 (Qwen2.5-VL-7B)"
    assert {line[-1] for line in means.rows if line[0] != "MMEB"} == {""}
    assert not any(line[0] == "all" for line in means.rows)


def test_a_part_of_a_suite_has_no_value_of_the_paper_beside_it() -> None:
    means = result_tables([whole_mmeb("paper", names=mmeb.NAMES[:-1])])[-1]
    assert means.columns[-1] != "in the paper"
    other = result("paper", {name: entry("g", P_at_1=[1]) for name in mmeb.NAMES})
    assert result_tables([other])[-1].columns[-1] != "in the paper", "only named as MMEB's are"


def test_the_values_of_the_paper_say_which_were_run() -> None:
    blank = published_table()
    assert len(blank.rows) == len(published().values)
    assert {line[-1] for line in blank.rows} == {"", "not run"}
    video = result(
        "paper", {name: entry("video classification", P_at_1=[1]) for name in CLASSIFICATION}
    )
    table = published_table([whole_mmeb("paper", 10), video])
    [ten] = [line for line in table.rows if line[1] == "FreeRet, top 10 reranked"]
    assert ten[2:4] == ["Qwen2.5-VL-7B", "0.678"]
    assert ten[-1].startswith("0.778 [")
    assert ten[-1].endswith("(tiny)")
    [clips] = [r for r in table.rows if r[0] == "video classification" and r[1] == "FreeRet-embed"]
    assert clips[-1] == "1.000 [1.000, 1.000] (tiny)"
    assert sum(line[-1] == "not run" for line in table.rows) == (
        sum(line[-1] == "not run" for line in blank.rows) - 2
    )


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
    run("table", "--paper", "--markdown")
    assert "| MMEB | FreeRet-embed | Qwen2.5-VL-7B | 0.537 | not run |" in capsys.readouterr().out
    assert run("table") == 1
    assert "name at least one result" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smollm2-135m", "smolsight", "gemma3-270m", "qwen2.5-coder-0.5b"])
def test_a_model_card_is_one_for_the_hub(name: str) -> None:
    report = ProbeReport.load(REPORTS / f"{name}.json")
    text = model_card(report)
    card = ModelCard(text)
    data = card.data.to_dict()
    assert data["license"] == ("gemma" if "gemma" in name else "apache-2.0")
    assert data["base_model"].count("/") == 1
    assert {"sentence-similarity", "feature-extraction"} <= set(data["tags"])
    recipe = Recipe.from_report(report)
    assert all(reason in card.text.replace("&lt;", "<") for reason in recipe.reasons)
    assert report.fingerprint["weights"] in card.text
    [code] = [part.split("```")[0] for part in card.text.split("```python\n")[1:]]
    line = next(line for line in code.splitlines() if line.startswith("recipe = "))
    assert eval(line.removeprefix("recipe = "), {"freeret": freeret}) == recipe
    chosen = next(
        s for s in report.diagnostic
        if (s.prompt, s.site, s.geometry) == (recipe.prompt, recipe.site, recipe.geometry)
    )  # fmt: skip
    assert f"| this recipe | {chosen.precision} | {chosen.reciprocal_rank} |" in card.text


def test_the_name_of_a_model_cannot_write_in_its_card(tmp_path: Path) -> None:
    """Nor does the card tell where the model lies on somebody's disk."""
    data = json.loads((REPORTS / "smollm2-135m.json").read_text())
    data["fingerprint"]["model"] = "/home/someone/models/evil`\n# <script>\n---\nlicense: mit"
    file = tmp_path / "report.json"
    file.write_text(json.dumps(data))
    text = model_card(ProbeReport.load(file))
    assert "/home/someone" not in text
    assert "<script>" not in text.split("## Fingerprint")[0]
    card = ModelCard(text)
    assert "license" not in card.data.to_dict()
    assert "base_model" not in card.data.to_dict()
    assert not any(line.startswith("# &lt;script") for line in text.splitlines())


def test_a_card_is_written_by_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "README.md"
    run("card", REPORTS / "smollm2-135m.json", "--out", out)
    assert out.read_text() == model_card(ProbeReport.load(REPORTS / "smollm2-135m.json"))
    capsys.readouterr()
    run("card", REPORTS / "smollm2-135m.json")
    assert capsys.readouterr().out.startswith("---\nbase_model:")
