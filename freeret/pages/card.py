"""A model card for a backbone and its recipe, in the Markdown of the Hugging Face hub.

    print(model_card(ProbeReport.load("report.json")))

Every figure comes from the probe report; nothing is claimed that it does not hold.
"""

import json
import re
from pathlib import Path

from huggingface_hub import ModelCardData

from freeret.recipe import Recipe
from probes import DiagnosticScore, ProbeReport
from probes.embedded import ALIASES
from probes.measure.diagnostic.scores import select_extraction
from probes.model.sites import PAPER_SITE

UPSTREAM = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "gemma3-270m": "google/gemma-3-270m",
    "qwen2.5-coder-0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "smolsight": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
"""Embedded backbone -> the model on the hub whose weights it holds."""
LICENCES = {"Apache-2.0": "apache-2.0", "Gemma Terms of Use": "gemma"}
"""Licence of an embedded backbone -> its identifier on the hub."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(report: ProbeReport, recipe: Recipe | None = None) -> str:
    """Describe a backbone as a retriever: recipe, use, measured figures, limits, fingerprint.

    Args:
        recipe: The recipe in use; None: the one that the report supports.

    Returns:
        Markdown with YAML front matter. The licence and the base model stand in it where they are
        known: for the embedded backbones, and the base model for any id of the hub.
    """
    recipe = recipe or Recipe.from_report(report)
    model = report.fingerprint["model"]
    name = _one_line(Path(model).name)
    sections = [
        f"# {name} as a training-free retriever",
        f"The weights of `{name}` are used as they are: FreeRet (arXiv 2509.24621) reads an "
        "embedding before the model's state becomes a word. This card was written by "
        "`freeret card` from the model's probe report.",
        "## Use",
        _usage(
            recipe,
            model if model in ALIASES or HUB_ID.fullmatch(model) else name,
            report.fingerprint["dtype"],
        ),
        "## Recipe",
        "\n".join(f"- {_one_line(reason)}" for reason in recipe.reasons),
        "## Measured",
        _settings(report, recipe),
        _frames(report),
        "Values are means with 95% bootstrap intervals.",
        "## Limits",
        _limits(report),
        "## Fingerprint",
        f"```json\n{json.dumps({**report.fingerprint, 'model': name}, indent=1)}\n```",
    ]
    return f"---\n{_front_matter(report).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def _front_matter(report: ProbeReport) -> ModelCardData:
    model = report.fingerprint["model"]
    licence = LICENCES.get(ALIASES[model].licence) if model in ALIASES else None
    pictures = ["multimodal", "image-feature-extraction"] * bool(report.fingerprint["processor"])
    base = UPSTREAM.get(model) or (model if HUB_ID.fullmatch(model) else None)
    return ModelCardData(
        library_name="freeret",
        license=licence,
        base_model=base,
        pipeline_tag="sentence-similarity",
        tags=["sentence-similarity", "feature-extraction", "training-free", "freeret", *pictures],
    )


def _usage(recipe: Recipe, model: str, dtype: str) -> str:
    choice = ", ".join(
        f"{key}={json.dumps(value)}" if value is not None else f"{key}=None"
        for key, value in recipe.to_json().items()
        if key in ("prompt", "site", "geometry", "frame", "fusion", "task", "lexical")
        and (key in ("prompt", "site", "geometry", "frame") or value != getattr(Recipe(), key))
    )
    named = json.dumps(model)
    imports, backbone = "import freeret", named
    if dtype != "float32":
        imports = "import freeret\nfrom probes import Backbone"
        backbone = f"Backbone.load({named}, dtype={json.dumps(dtype)})"
    return f"""```python
{imports}

recipe = freeret.Recipe({choice})
model = freeret.sentence_transformer({backbone}, recipe)
queries = model.encode_query(["why does bread go stale?"])
documents = model.encode_document(["Loaves dry out and their starch hardens."])
print(model.similarity(queries, documents))
```"""


def _settings(report: ProbeReport, recipe: Recipe) -> str:
    """The recipe beside the two fixed extractions, on paraphrases and on scenes."""
    wanted = {
        "this recipe": (recipe.prompt, recipe.site, recipe.geometry, recipe.task),
        "the paper's control prompt": ("control", PAPER_SITE, "none", None),
        "the E5-V extraction": ("e5v", "norm", "none", None),
    }
    rows = [
        (name, setting)
        for name, choice in wanted.items()
        for setting in report.diagnostic
        if (setting.prompt, setting.site, setting.geometry, setting.task) == choice
    ]
    long, sees = (any(getattr(s, f) for _, s in rows) for f in ("passages", "pictures"))
    head = ["extraction", "paraphrase P@1", "reciprocal rank"]
    head += ["question to passage"] * long + ["caption to picture"] * sees
    body = [
        [
            name,
            str(setting.precision),
            str(setting.reciprocal_rank),
            *([str(setting.passages)] * long),
            *([str(setting.pictures)] * sees),
        ]
        for name, setting in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def _frames(report: ProbeReport) -> str:
    rows = [[f.frame, str(f.accuracy), str(f.auc), f"{f.skew:.2f}"] for f in report.framing]
    head = ["frame of a reranking question", "accuracy", "AUC", "p(positive) without content"]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _limits(report: ProbeReport) -> str:
    best: DiagnosticScore = select_extraction(report.diagnostic)
    limits = [
        "The figures are of the probes' own sentences, a few hundred in English; measure your own "
        "data with `freeret eval folder:FOLDER`.",
        "Nothing was trained: a model that was trained for retrieval is usually better.",
        "A geometry without a corpus is fitted on bundled reference items; `freeret index` fits it "
        "on the corpus itself.",
    ]
    if best.pictures is None:
        limits.append("Pictures were not measured.")
    return "\n".join(f"- {limit}" for limit in limits)


def _one_line(text: str) -> str:
    """Text that cannot open a block, a tag or code of its own in Markdown."""
    return " ".join(text.replace("`", "'").replace("<", "&lt;").split())
