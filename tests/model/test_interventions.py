"""Interventions give the forward that plain PyTorch hooks give, and leave nothing behind.

The reference hooks are on branches that are named by architecture, and not through the anatomy.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.errors import BadSetting, UnsupportedBackbone
from probes.model.backbone import Backbone
from probes.model.encoding import Batch
from probes.model.encoding.rows import Positions
from probes.model.interventions import Intervention, intervene, replace, scale, skip
from probes.model.sites import Site, all_sites
from probes.model.trace import record
from tests.model.test_trace import (
    BRANCHES,
    DECODER,
    LAYERS,
    SCALE,
    TEXTS,
    Tiny,
    reference,
    relative,
    sources_for,
)
from tests.models import MULTIMODAL, TEXT, tokenizer
from tests.samples import items_for

SITES = ["attn[1]", "mlp[1]", "attn[-1]", "mlp[-1]"]


def layer_of(name: str, model: Any, site: str) -> Any:
    decoder = model.get_submodule(DECODER.get(name, "model"))
    return getattr(decoder, LAYERS.get(name, "layers"))[int(site[:-1].split("[")[1])]


@contextmanager
def changed_branch(
    name: str, model: Any, site: str, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Change what a branch adds to the stream, by a plain hook at its end."""
    branch = BRANCHES.get(name, ("self_attn", "mlp"))[site.startswith("mlp")]

    def hook(module: Any, args: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = getattr(layer_of(name, model, site), branch).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def with_column(column: int, values: Tensor) -> Callable[[Tensor], Tensor]:
    """The output of a branch with other values `[batch, hidden]` at a position."""

    def change(output: Tensor) -> Tensor:
        new = output.clone()
        new.view(len(values), -1, values.shape[-1])[:, column] = values  # OPT flattens its rows
        return new

    return change


def check_changes(name: str, backbone: Backbone, batch: Batch, site: str) -> None:
    """All states and the logits of a forward, bit for bit where no sum is in another order."""
    mask = batch.inputs["attention_mask"].bool()
    usual = reference(name, backbone.model, batch)
    order = list(map(str, all_sites(backbone)))
    here = str(Site.parse(site).resolve(backbone.num_layers))
    # At its last position each row is patched from another one.
    write = usual.branches[here][:, -1].roll(1, 0)
    state = usual.everywhere[here][:, -1].roll(1, 0)
    before, factor = usual.everywhere[order[order.index(here) - 1]], SCALE.get(name, 1.0)
    added = (state - before[:, -1]) / factor
    changes: list[tuple[Callable[[Tensor], Tensor], Intervention, Positions, float]] = [
        (lambda output: 0 * output, skip, "all", 0.0),
        (lambda output: output / 2, scale(0.5), "all", 1e-6),
        (with_column(-1, write), lambda b, _: b + factor * write[:, None], "last", 0.0),
        (with_column(-1, added), replace(state[:, None]), "last", 1e-6),
    ]
    for number, (change, intervention, positions, limit) in enumerate(changes):
        with changed_branch(name, backbone.model, site, change):
            expected = reference(name, backbone.model, batch)
        with intervene(backbone, {site: intervention}, positions=positions):
            states = record(backbone, batch, "all", positions="all")
            with torch.no_grad():
                plain = backbone.model(**batch.inputs, use_cache=False).logits[:, -1]
        for where, stream in expected.everywhere.items():
            assert relative(states[where], stream[mask]) <= limit, f"{where}, {number} at {site}"
        assert relative(plain, expected.logits) <= limit
        assert relative(plain, usual.logits) > 1e-3, f"{number} at {site} changes nothing"


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", TEXT)
def test_a_changed_forward_is_that_of_plain_hooks(name: str, site: str, tiny: Tiny) -> None:
    check_changes(name, tiny(name), tiny(name).encode(TEXTS), site)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_changed_forward_is_that_of_plain_hooks_with_media(name: str, tiny: Tiny) -> None:
    batch = tiny(name).encode(["Yes", *items_for(name).values()])
    for site in ("attn[1]", "mlp[-1]"):
        check_changes(name, tiny(name), batch, site)


def test_a_changed_forward_of_real_weights(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    batch = backbone.encode([source for source in sources_for(name) if source != TEXTS[-1]])
    for site in ("attn[-2]", "mlp[-1]"):
        check_changes(name, backbone, batch, site)


def check_generation(name: str, backbone: Backbone, site: str, count: int) -> None:
    """With its cache: every new token is a forward of its own."""
    batch = backbone.encode(["the word of the image"])
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}

    def tokens() -> list[int]:
        found = backbone.model.generate(**inputs, max_new_tokens=count, do_sample=False)
        return found[0, inputs["input_ids"].shape[1] :].tolist()

    usual = backbone.generate("the word of the image", count)
    with changed_branch(name, backbone.model, site, lambda output: 0 * output):
        expected, text = tokens(), backbone.generate("the word of the image", count)
    with intervene(backbone, {site: skip}):
        assert tokens() == expected
        assert backbone.generate("the word of the image", count) == text != usual
    assert backbone.generate("the word of the image", count) == usual


@pytest.mark.parametrize("site", ["attn[1]", "mlp[-1]"])
@pytest.mark.parametrize("name", ["llama", "gemma3-text", "granite", "gpt2", "opt", "qwen2.5-vl"])
def test_a_generation_is_that_of_plain_hooks(name: str, site: str, tiny: Tiny) -> None:
    check_generation(name, tiny(name), site, 8)


def test_a_generation_of_real_weights(real: tuple[str, Backbone]) -> None:
    check_generation(*real, "mlp[-1]", 3)


def test_skipping_the_last_mlp_of_smollm2_takes_paris_away(smollm2: Backbone) -> None:
    prompt = "The capital of France is"
    assert smollm2.generate(prompt, 1) == "Paris"
    with intervene(smollm2, {"mlp[-2]": skip}):
        assert smollm2.generate(prompt, 1) == "Paris"
    with intervene(smollm2, {"mlp[-1]": skip}):
        assert smollm2.generate(prompt, 1) != "Paris"


def test_a_replaced_state_is_the_one_that_is_given(tiny: Tiny) -> None:
    backbone, state = tiny("gemma2"), torch.linspace(-1, 1, 64)
    batch = backbone.encode(TEXTS)
    for site in ("embed", "attn[2]", "mlp[2]"):
        with intervene(backbone, {site: replace(state)}):
            found = record(backbone, batch, [site, "norm"], positions="all")
        assert torch.equal(found[site], state.expand_as(found[site]))
    each = torch.stack([state, 2 * state, 3 * state])[:, None]
    with intervene(backbone, {"mlp[2]": replace(each)}):
        found = record(backbone, batch, ["mlp[2]"])
    assert torch.equal(found["mlp[2]"], each[:, 0])


def test_states_put_back_give_the_forward_they_are_from(tiny: Tiny) -> None:
    """Patching every token of a sublayer's state makes one input of the other."""
    backbone = tiny("qwen3")
    clean, other = backbone.encode(["Yes of"]), backbone.encode(["No one"])
    expected = record(backbone, clean, ["norm", "attn[1]"], positions="all")
    whole = expected["attn[1]"][None]
    with intervene(backbone, {"attn[1]": lambda before, after: whole}):
        found = record(backbone, other, ["norm"], positions="all")
    assert torch.equal(found["norm"], expected["norm"])


@pytest.mark.parametrize("site", ["embed", "attn[1]", "mlp[1]"])
def test_only_the_chosen_positions_change(site: str, tiny: Tiny) -> None:
    backbone = tiny("qwen2")
    batch = backbone.encode(TEXTS)
    usual = record(backbone, batch, [site], positions="all").by_row(site)
    slices = [slice(0, 1), slice(1, -1)]
    ways: list[tuple[Positions, slice]] = [
        ("last", slice(-1, None)),
        *zip(slices, slices, strict=False),
    ]
    for positions, chosen in ways:
        with intervene(backbone, {site: lambda _, after: 3 * after}, positions=positions):
            found = record(backbone, batch, [site], positions="all").by_row(site)
        for row, before in zip(found, usual, strict=True):
            expected = before.clone()
            expected[chosen] *= 3
            assert torch.equal(row, expected)


def test_positions_of_a_generation_are_those_of_the_row(tiny: Tiny) -> None:
    """A slice at the beginning leaves new tokens alone, although each is the first of a forward."""
    backbone, changed = tiny("llama"), []

    def see(before: Tensor, after: Tensor) -> Tensor:
        changed.append(after.shape[1])
        return torch.zeros_like(after)

    def last_layer(before: Tensor, after: Tensor) -> Tensor:
        zero.append((after == 0).all(-1).sum().item())
        return after

    cases: list[tuple[Positions, list[int]]] = [
        (slice(0, 1), [1, 0, 0]),
        ("last", [1, 1, 1]),
        ("all", [5, 1, 1]),
    ]
    for positions, expected in cases:
        zero: list[float] = []
        with (
            intervene(backbone, {"mlp[1]": see}, positions=positions),
            intervene(backbone, {"mlp[1]": last_layer}),
        ):
            backbone.generate("the word of the word", 3)
        assert zero == expected
    assert changed == [5, 1, 1] * 3


def test_an_inner_block_reads_what_an_outer_one_leaves(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode(TEXTS)
    add = lambda before, after: after + 1  # noqa: E731
    for site in ("embed", "attn[0]", "mlp[1]"):
        with intervene(backbone, {site: lambda before, after: 3 * add(before, after)}):
            expected = record(backbone, batch, [site, "norm"])
        with (
            intervene(backbone, {site: add}),
            intervene(backbone, {site: lambda before, after: 3 * after}),
        ):
            found = record(backbone, batch, [site, "norm"])
        assert all(torch.equal(found[s], expected[s]) for s in found)


def test_the_state_before_is_the_changed_one(tiny: Tiny) -> None:
    """In whatever order: `attn[0]` starts from a changed `embed`, and `mlp[0]` from `attn[0]`."""
    backbone, state = tiny("llama"), torch.ones(64)
    batch = backbone.encode(TEXTS)
    with (
        intervene(backbone, {"mlp[0]": skip, "attn[0]": skip}),
        intervene(backbone, {"embed": replace(state)}),
    ):
        found = record(backbone, batch, ["embed", "attn[0]", "mlp[0]"])
    assert all(torch.equal(s, state.expand_as(s)) for s in found.values())


# ------------------------------------------------------------------------------------ errors


def test_mistakes_are_named(tiny: Tiny, unchecked: None) -> None:
    backbone = tiny("llama")
    mistakes: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"mlp": skip}, {}, "'mlp' is not a site"),
        ({"mlp[9]": skip}, {}, "this backbone has 4 layers"),
        ({"norm": skip}, {}, r"intervene at mlp\[-1\]"),
        ({"mlp[-1]": skip, "mlp[3]": skip}, {}, r"names mlp\[3\] twice"),
        ({"mlp[-1]": 0.5}, {}, "scale"),
        ({"mlp[-1]": skip}, {"positions": "first"}, "not 'first'"),
    ]
    for interventions, settings, message in mistakes:
        with (
            pytest.raises(BadSetting, match=message),
            intervene(backbone, interventions, **settings),
        ):
            pass
    wrongs: list[Any] = [lambda _, after: after[..., :3], lambda *_: None, replace(torch.ones(5))]
    for wrong in wrongs:
        with intervene(backbone, {"mlp[1]": wrong}), pytest.raises(BadSetting, match="64"):
            record(backbone, TEXTS, ["norm"])
    assert backbone.interventions == []


def test_a_layer_that_keeps_a_copy_of_the_stream_is_refused() -> None:
    """Skipping its attention would change what the MLP reads, and not what it is added to."""
    model = TEXT["llama"].__wrapped__()  # type: ignore[attr-defined]
    layer = model.model.layers[2]
    attention, mlp = layer.self_attn, layer.mlp

    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        mixed, _ = attention(layer.input_layernorm(hidden_states), **kwargs)
        middle = hidden_states + mixed
        return middle + mlp(layer.post_attention_layernorm(middle.clone()))

    layer.forward = forward
    backbone = Backbone.load(model, tokenizer=tokenizer())
    with (
        pytest.raises(UnsupportedBackbone, match=r"layers\.2 keeps a second copy"),
        intervene(backbone, {"attn[0]": skip}),
    ):
        pass
    with intervene(backbone, {"mlp[2]": skip}):
        states = record(backbone, TEXTS, ["attn[2]", "mlp[2]"])
    assert torch.equal(states["attn[2]"], states["mlp[2]"])
