"""Recorded states are those of plain PyTorch hooks, bit for bit, at every site of every family.

The reference is the definition of the residual stream: what enters a layer, plus what the end of
its attention branch puts out. The modules are named here by architecture and not through the
anatomy, and tiny references run on a fresh copy of the model that was never traced.
"""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from probes.model.backbone import Backbone
from probes.model.batches.packing import MIN_SHARED
from probes.model.batches.prefix import _computed_last
from probes.model.batches.states import states_of
from probes.model.encoding import Batch
from probes.model.sites import Site, all_sites
from probes.model.trace import _place, _read, _traced, _traced_model, record
from tests.models import MULTIMODAL, TEXT, tokenizer
from tests.samples import ITEMS, items_for

Tiny = Callable[[str], Backbone]

# Where the decoder is, and where each branch of a layer ends; c of `mid = in + c * attention`.
DECODER = dict.fromkeys(MULTIMODAL, "model.language_model") | {
    "smolsight": "model.language_model",
    "idefics3": "model.text_model",
    "smolvlm": "model.text_model",
    "gpt2": "transformer",
    "opt": "model.decoder",
}
LAYERS = {"gpt2": "h"}
NORM = {"gpt2": "ln_f", "opt": "final_layer_norm"}
POST_NORMED = ("post_attention_layernorm", "post_feedforward_layernorm")
BRANCHES = {
    "gpt2": ("attn", "mlp"),
    "opt": ("self_attn", "fc2"),
    **dict.fromkeys(("gemma2", "gemma3-text", "gemma3-vl", "olmo2", "gemma"), POST_NORMED),
}
SCALE = {"granite": 0.22}
# The norm through which a branch first reads the stream; Olmo2 has none.
READERS = {
    "gpt2": ("ln_1", "ln_2"),
    "opt": ("self_attn_layer_norm", "final_layer_norm"),
    **dict.fromkeys(
        ("gemma2", "gemma3-text", "gemma3-vl", "gemma"),
        ("input_layernorm", "pre_feedforward_layernorm"),
    ),
}

TEXTS = ["the word", "Yes", "one word of the image: 日本, naïve and 12345 others 🙂"]


def sources_for(name: str) -> list[Any]:
    """Texts, and a picture where real weights read it."""
    return [*TEXTS, ITEMS["picture"]] if name == "smolsight" else TEXTS


@dataclass
class Reference:
    """States by site, and the wrong states of likely mistakes by name."""

    sites: dict[str, Tensor]
    """At the last position, `[batch, hidden]`."""
    everywhere: dict[str, Tensor]
    """At all positions, padding among them, `[batch, tokens, hidden]`."""
    branches: dict[str, Tensor]
    """What the end of each branch puts out, at all positions."""
    mistakes: dict[str, dict[str, Tensor]]
    logits: Tensor


def reference(name: str, model: Any, batch: Batch) -> Reference:
    """The states of a forward pass, from hooks on modules that are named by architecture."""
    decoder = model.get_submodule(DECODER.get(name, "model"))
    layers = getattr(decoder, LAYERS.get(name, "layers"))
    norm = getattr(decoder, NORM.get(name, "norm"))
    attention, mlp = BRANCHES.get(name, ("self_attn", "mlp"))
    readers = READERS.get(name, ("input_layernorm", "post_attention_layernorm"))
    scale, size = SCALE.get(name, 1.0), len(batch)
    entered: dict[nn.Module, Tensor] = {}
    left: dict[nn.Module, Tensor] = {}

    def rows(value: Any) -> Tensor:
        value = value[0] if isinstance(value, tuple) else value
        return value.view(size, -1, value.shape[-1])  # OPT's MLP flattens its rows

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        entered[module] = rows(args[0] if args else kwargs["hidden_states"])
        left[module] = rows(output)

    with hooked([norm, *(m for layer in layers for m in (layer, *layer.children()))], hook):
        logits = model(**batch.inputs, use_cache=False).logits[:, -1]

    sites, branches, mistakes = {"embed": entered[layers[0]], "norm": left[norm]}, {}, {}
    for i, layer in enumerate(layers):
        first, second = left[getattr(layer, attention)], left[getattr(layer, mlp)]
        middle = entered[layer] + scale * first
        sites |= {f"attn[{i}]": middle, f"mlp[{i}]": left[layer]}
        branches |= {f"attn[{i}]": first, f"mlp[{i}]": second}
        mistakes[f"attn[{i}]"] = {
            "the branch": first,
            "the state before": entered[layer],
            "the state after": left[layer],
        }
        mistakes[f"mlp[{i}]"] = {"the branch": second, "the state before": middle}
        if name != "olmo2":
            mistakes[f"attn[{i}]"]["normed"] = left[getattr(layer, readers[1])]
    mistakes["mlp[-1]"] = {"normed": left[norm]}
    mistakes["norm"] = {"raw": left[layers[-1]]}

    def last(states: dict[str, Tensor]) -> dict[str, Tensor]:
        return {site: state[:, -1] for site, state in states.items()}

    wrong = {site: last(states) for site, states in mistakes.items()}
    return Reference(last(sites), sites, branches, wrong, logits)


@contextmanager
def hooked(modules: list[nn.Module], hook: Callable) -> Iterator[None]:
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def relative(states: Tensor, expected: Tensor) -> float:
    """The largest distance of a row from its expected value, relative to its norm."""
    return ((states - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


def check_every_site(name: str, backbone: Backbone, model: Any, batch: Batch) -> None:
    expected = reference(name, model, batch)
    states = record(backbone, batch, all_sites(backbone.num_layers), logits=True)
    assert {str(site) for site in states} == set(expected.sites)
    for site, state in expected.sites.items():
        assert torch.equal(states[site], state), f"{site}: {(states[site] - state).abs().max()}"
    for site, mistakes in expected.mistakes.items():
        for mistake, state in mistakes.items():
            assert relative(state, states[site]) > 0.01, f"{site}: {mistake} would pass for it"
    assert states.logits is not None
    assert relative(states.logits, expected.logits) <= 1e-5


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_text_states_are_those_of_plain_hooks(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    fresh = (TEXT | MULTIMODAL)[name].__wrapped__()
    model = fresh[0] if isinstance(fresh, tuple) else fresh
    check_every_site(name, backbone, model, backbone.encode(TEXTS))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_media_states_are_those_of_plain_hooks(name: str, tiny: Tiny) -> None:
    model, _ = MULTIMODAL[name].__wrapped__()
    backbone = tiny(name)
    check_every_site(
        name, backbone, model, backbone.encode(["the word", *items_for(name).values()])
    )


def test_real_states_are_those_of_plain_hooks(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    check_every_site(name, backbone, backbone.model, backbone.encode(sources_for(name)))


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_hidden_states_end_with_the_norm(name: str, tiny: Tiny) -> None:
    """The last entry of `output_hidden_states` is `norm`, not the last layer."""
    backbone = tiny(name)
    batch = backbone.encode(TEXTS)
    states = record(backbone, batch, all_sites(backbone.num_layers))
    with torch.no_grad():
        hidden = backbone.model(**batch.inputs, output_hidden_states=True).hidden_states
    for layer, state in enumerate(hidden[1:-1]):
        assert torch.equal(states[f"mlp[{layer}]"], state[:, -1])
    assert torch.equal(states["norm"], hidden[-1][:, -1])


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_logits_are_the_models_own(name: str, tiny: Tiny) -> None:
    """They include softcap and scaling, unlike the output of the LM head."""
    backbone = tiny(name)
    batch = backbone.encode(TEXTS)
    states = record(backbone, batch, [], logits=True)
    with torch.no_grad():
        own = backbone.model(**batch.inputs, logits_to_keep=1).logits[:, -1]
    assert states.logits is not None
    assert relative(states.logits, own) <= 1e-6  # some apply their head to all positions at once


# ------------------------------------------------------------------------------ what runs


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt", "olmo2", "qwen2.5-vl"])
@pytest.mark.parametrize(
    ("sites", "last"),
    [
        (["attn[-1]"], "attention 3"),
        (["attn[1]", "attn[0]"], "attention 1"),
        (["mlp[1]"], "mlp 1"),
        (["mlp[-1]"], "mlp 3"),
        (["norm"], "norm"),
    ],
)
def test_nothing_runs_after_the_deepest_site(
    name: str, sites: list[str], last: str, tiny: Tiny
) -> None:
    backbone = tiny(name)
    decoder = backbone.model.get_submodule(DECODER.get(name, "model"))
    # Inside the MLP: Olmo2's reads h^Attn itself, so its door opens and nothing behind it runs.
    attention, mlp = {"gpt2": ("attn", "mlp.c_fc"), "opt": ("self_attn", "fc1")}.get(
        name, ("self_attn", "mlp.gate_proj")
    )
    watched = {
        "norm": getattr(decoder, NORM.get(name, "norm")),
        "head": backbone.model.get_output_embeddings(),
    }
    for i, layer in enumerate(getattr(decoder, LAYERS.get(name, "layers"))):
        watched[f"attention {i}"] = layer.get_submodule(attention)
        watched[f"mlp {i}"] = layer.get_submodule(mlp)
    started: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, what=what: started.append(what))
        for what, module in watched.items()
    ]
    try:
        record(backbone, backbone.encode(TEXTS), sites)
    finally:
        for handle in handles:
            handle.remove()
    order = [f"{part} {i}" for i in range(4) for part in ("attention", "mlp")] + ["norm", "head"]
    assert started == order[: order.index(last) + 1]


def test_the_order_of_sites_does_not_matter(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode(TEXTS)
    forth, back = ["attn[-1]", "mlp[0]", "norm", "attn[3]"], ["norm", "mlp[0]", "attn[-1]"]
    states, again = record(backbone, batch, forth), record(backbone, batch, back)
    assert list(map(str, states)) == ["mlp[0]", "attn[3]", "norm"]
    assert all(torch.equal(states[site], again[site]) for site in forth)


def test_a_state_keeps_no_more_than_itself_alive(tiny: Tiny) -> None:
    states = record(tiny("llama"), tiny("llama").encode(TEXTS), ["attn[-1]", "norm"])
    for site in states:
        assert states[site].untyped_storage().nbytes() == len(TEXTS) * 64 * 4


def test_what_was_not_recorded_cannot_be_read(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode(TEXTS)
    with pytest.raises(KeyError, match=r"mlp\[-1\] was not recorded; recorded: attn\[3\]"):
        record(backbone, batch, ["attn[-1]"])["mlp[-1]"]
    with pytest.raises(ValueError, match="this backbone has 4 layers"):
        record(backbone, batch, ["attn[4]"])
    with pytest.raises(ValueError, match="nothing to record"):
        record(backbone, batch, [])


def test_a_kind_of_site_without_a_module_is_an_error(tiny: Tiny) -> None:
    backbone, unknown = tiny("llama"), Site("attn")
    object.__setattr__(unknown, "kind", "query")
    with pytest.raises(AssertionError, match="query"):
        _place(_traced_model(backbone), backbone.anatomy, unknown)


@pytest.mark.parametrize("name", ["llama", "qwen2.5-vl"])
def test_recording_leaves_the_model_as_it_is(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    batch = backbone.encode(TEXTS)
    before = {key: weight.clone() for key, weight in backbone.model.state_dict().items()}
    with torch.no_grad():
        logits = backbone.model(**batch.inputs).logits
        record(backbone, batch, ["attn[1]", "norm"])
        assert torch.equal(backbone.model(**batch.inputs).logits, logits)
    assert all(torch.equal(before[key], w) for key, w in backbone.model.state_dict().items())


def test_a_forward_that_fails_does_not_spoil_the_next(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode(TEXTS)
    expected = record(backbone, batch, ["attn[-1]"])["attn[-1]"]

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("injected")

    handle = backbone.model.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        record(backbone, batch, ["attn[-1]"])
    handle.remove()
    assert torch.equal(record(backbone, batch, ["attn[-1]"])["attn[-1]"], expected)


# --------------------------------------------------------------------- batches and threads

WIDE = ["", "the word", "Yes", "of the image " * 9, "日本 🙂", "a\n\nb"]


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
@given(data=st.data())
@settings(max_examples=6)
def test_a_state_does_not_depend_on_its_batch(name: str, tiny: Tiny, data: st.DataObject) -> None:
    backbone = tiny(name)
    pool: list[Any] = [text + "." for text in WIDE]
    pool += list(items_for(name).values()) if name in MULTIMODAL else []
    chosen = data.draw(st.lists(st.sampled_from(range(len(pool))), min_size=2, max_size=5))
    sites = ["attn[0]", "attn[-1]", "mlp[-1]", "norm"]
    together = record(backbone, backbone.encode([pool[i] for i in chosen]), sites)
    for row, i in enumerate(chosen):
        alone = record(backbone, backbone.encode([pool[i]]), sites)
        for site in sites:
            moved = relative(together[site][row], alone[site][0])
            assert moved <= 1e-5, f"{site} of {pool[i]!r} moved by {moved:.1e}"


def test_the_state_is_the_first_of_several_outputs_of_a_layer() -> None:
    """Layers of some classes return a tuple: the state, then attention weights or a cache."""
    state, weights = torch.arange(12.0).reshape(2, 3, 2), torch.zeros(2, 5, 3, 3)
    ends = torch.tensor([(0, 2), (1, 2)])
    assert torch.equal(_read((state, weights), 2, ends), state[:, 2])
    assert torch.equal(_read(state.reshape(6, 2), 2, ends), state[:, 2])


def test_threads_do_not_disturb_each_other(tiny: Tiny) -> None:
    backbone = tiny("qwen2")
    batches = [backbone.encode([text]) for text in ("the word", "one of the image", "Yes", "No")]
    sites = ["attn[1]", "mlp[-1]", "norm"]
    expected = [record(backbone, batch, sites) for batch in batches]
    wrong: list[str] = []
    start = threading.Barrier(len(batches))

    def work(batch: Batch, expected: Any) -> None:
        start.wait()
        for _ in range(15):
            try:
                states = record(backbone, batch, sites)
                wrong.extend(s for s in sites if not torch.equal(states[s], expected[s]))
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=a) for a in zip(batches, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---------------------------------------------------------------------- the mapping of states


def test_states_are_a_mapping_in_order_of_execution(tiny: Tiny) -> None:
    states = record(tiny("llama"), TEXTS, ["norm", "attn[-1]"])
    attn, norm = Site("attn", 3), Site("norm")
    assert list(states) == [attn, norm]
    assert len(states) == 2
    assert {site: state.shape for site, state in states.items()} == {
        attn: (len(TEXTS), 64),
        norm: (len(TEXTS), 64),
    }
    assert torch.equal(dict(states)[norm], states["norm"])
    assert "attn[-1]" in states
    assert "mlp[-1]" not in states


def test_all_sites_can_be_asked_for_by_one_word(tiny: Tiny) -> None:
    backbone = tiny("llama")
    assert list(record(backbone, TEXTS, "all")) == all_sites(backbone) == all_sites(4)
    assert states_of(backbone, TEXTS, "all").shape == (len(TEXTS), 10, 64)


# ---------------------------------------------------------------------------- what is cached


def test_a_backbone_that_was_used_is_freed() -> None:
    """The traced model and the last prefix are kept beside the backbone, and go with it."""
    backbone = Backbone.load(TEXT["llama"].__wrapped__(), tokenizer=tokenizer())
    states_of(backbone, ["the word " * 9 + text for text in TEXTS], "norm")
    assert backbone in _traced
    assert len(_computed_last[backbone][0]) > MIN_SHARED
    freed, model = weakref.ref(backbone), weakref.ref(backbone.model)
    del backbone
    gc.collect()
    assert freed() is None
    assert model() is None
