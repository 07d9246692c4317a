"""Record the states of a forward pass where they are read, or the attention of these positions.

Only this file imports nnsight.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, assert_never
from weakref import WeakKeyDictionary

import nnsight
import torch
from jaxtyping import Float
from nnsight._c import mount, unmount
from torch import Tensor, nn

from probes.errors import BadSetting, NotRecorded, UnsupportedBackbone
from probes.media.silence import silence
from probes.media.towers import to_device
from probes.model.anatomy import Anatomy, attention_modules
from probes.model.attention import fast_attention
from probes.model.backbone import Backbone, OutOfMemory
from probes.model.encoding import Batch
from probes.model.encoding.rows import Positions
from probes.model.sites import Site, as_layers, as_sites
from probes.prompts import Source


class Traced(nnsight.NNsight):
    """NNsight wrapper that does not move inputs to another device.

    nnsight would move them to the device of the first parameter, which is the meta device where
    that parameter is offloaded. A batch is on the right device already.
    """

    device = None  # type: ignore[assignment]


_traced: WeakKeyDictionary[Backbone, Traced] = WeakKeyDictionary()
Place = tuple[Any, Literal["input", "output"]]
"""A module of a traced model, and which end of it holds a state."""


@dataclass(frozen=True, eq=False)
class States(Mapping[Site, Tensor]):
    """States recorded in one forward: a mapping from sites to tensors `[batch, hidden]`, or, where
    a row of the batch is read at several positions, `[positions, hidden]`, row after row.

    Sites come in order of execution, with layers counted from the start. Negative layer indices
    work too: `states["attn[-1]"]`.
    """

    by_site: dict[Site, Float[Tensor, "batch hidden"]]
    logits: Float[Tensor, "batch vocabulary"] | None
    """The model's own logits at these positions, in float32, where they were asked for."""
    num_layers: int
    read: list[list[tuple[int, int]]]
    """For each row of the batch, the row and the column of the inputs that each state is of."""

    def __repr__(self) -> str:
        shapes = [f"{site} {list(state.shape)}" for site, state in self.items()]
        if self.logits is not None:
            shapes.append(f"logits {list(self.logits.shape)}")
        return f"States({', '.join(shapes)})"

    def __getitem__(self, site: str | Site) -> Float[Tensor, "batch hidden"]:
        """The states at one site, in the model's dtype.

        Raises:
            NotRecorded: The site exists, and its state was not recorded.
            BadSetting: The backbone has no such site.
        """
        key = Site.parse(site).resolve(self.num_layers)
        if key not in self.by_site:
            raise NotRecorded(f"{site} was not recorded; recorded: {', '.join(map(str, self))}")
        return self.by_site[key]

    def by_row(self, site: str | Site) -> list[Float[Tensor, "tokens hidden"]]:
        """The states of each row of the batch at one site, `[tokens, hidden]`.

        Raises what `states[site]` does.
        """
        return list(self[site].split([len(places) for places in self.read]))

    def __iter__(self) -> Iterator[Site]:
        return iter(self.by_site)

    def __len__(self) -> int:
        return len(self.by_site)


def record(
    backbone: Backbone,
    batch: Batch | Source | Sequence[Source],
    sites: str | Site | Sequence[str | Site],
    *,
    positions: Positions = "last",
    logits: bool = False,
) -> States:
    """Run one forward pass and keep the state of each site at some positions of each row.

    The pass ends after the deepest site: for `attn[-1]` the last MLP and the final norm do not run.

    Args:
        backbone: The model to read.
        batch: What `backbone.encode` returns, or what it takes.
        sites: Where to read, such as `["attn[-1]", "norm"]`, or `"all"`.
        positions: "last" for the last token of each row, or where `Batch.read` says; "all" for
            every token that is not padding, placeholders of media among them; or a slice of each
            row's tokens, such as `slice(-5, None)` for its last five.
        logits: Whether to run to the final norm, and apply the LM head to these positions.

    Returns:
        The states by site in the model's dtype, `[batch, hidden]`, or `[positions, hidden]`, row
        after row: `States.by_row` cuts them into rows. And the logits if asked for. Those of sites
        with a mean are in float32.

    Raises:
        BadItem: An item cannot be read.
        BadSetting: The backbone has no such site, nothing is to be recorded, there are no such
            positions, or a site has a mean and the rows have no known content or several positions.
        OutOfMemory: The batch does not fit in memory.
    """
    depth = backbone.num_layers
    unique = {site.resolve(depth) for site in as_sites(sites, depth)}
    if not unique and not logits:
        raise BadSetting("nothing to record: name at least one site, or ask for logits")
    norm = {Site.parse("norm")} if logits else set()
    ordered = sorted({s.last for s in unique | norm}, key=lambda site: site.depth(depth))
    whole = batch if isinstance(batch, Batch) else backbone.encode(batch)
    chosen = whole.reading(positions)
    averaged = chosen.averaged_places() if any(site.mean for site in unique) else []
    with _forward(backbone, chosen):
        traced: Any = _traced_model(backbone)  # nnsight's tracers have no useful types
        places = [_place(traced, backbone.anatomy, site) for site in ordered]
        count, at = sum(map(len, chosen.read)), _places(backbone, chosen.read + averaged)
        found = dict(zip(ordered, _trace(traced, backbone, chosen, places, at), strict=True))
        states = {site: state[:count] for site, state in found.items()}
        own = backbone.lens(states[ordered[-1]], "norm").float() if logits else None
        for site in unique:
            if site.mean:
                state = found[site.last]
                states[site] = _unit(state[:count]) + _means(state[count:], averaged)
    kept = {site: state for site, state in states.items() if site in unique}
    return States(kept, own, depth, chosen.read)


@contextmanager
def _forward(backbone: Backbone, batch: Batch) -> Iterator[None]:
    """Hold the lock during a forward pass without gradients; torch's error becomes OutOfMemory."""
    attention = fast_attention(backbone.device, packed=batch.packed)
    try:
        with backbone.lock, torch.no_grad(), attention:
            yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory.of(backbone.device, f"record {len(batch)} rows") from error


def _trace(
    traced: Any, backbone: Backbone, batch: Batch, places: Sequence[Place], at: Tensor
) -> list[Tensor]:
    """What enters or leaves some modules, which are in order of execution, at some positions."""
    inputs: dict[str, Any] = {"use_cache": False, **batch.inputs}
    rows = len(inputs["input_ids"])
    with traced.trace(**inputs) as tracer:
        states = nnsight.save([])
        for module, end in places:
            states.append(_read(module.input if end == "input" else module.output, rows, at))
        tracer.stop()
    return states


def record_attention(
    backbone: Backbone, batch: Batch, layers: Sequence[int]
) -> list[Float[Tensor, "positions heads tokens"]]:
    """The attention weights of the positions in `Batch.read`, in one forward pass that ends after
    the deepest of the layers.

    Args:
        backbone: The model to read.
        batch: Whole rows, as `backbone.encode` and `backbone.collate` make them.
        layers: In ascending order, counted from the start.

    Returns:
        For each layer what each head gives to each token of the row, row after row, float32 on the
        device of the layer. The weights of a head sum to 1, or to less where the model has an
        attention sink.

    Raises:
        UnsupportedBackbone: A layer has no attention, or does not return its weights.
        OutOfMemory: The batch does not fit in memory.
    """
    modules = attention_modules(backbone.model, backbone.anatomy)
    if missing := [layer for layer in layers if layer not in modules]:
        raise UnsupportedBackbone(f"layer {missing[0]} of {backbone.name} has no attention weights")
    traced: Any = _traced_model(backbone)
    places = [traced.get(modules[layer]) for layer in layers]
    at = _places(backbone, batch.read)
    with (
        _forward(backbone, batch),
        _returning_weights(backbone),
        traced.trace(use_cache=False, **batch.inputs) as tracer,
    ):
        weights = nnsight.save([])
        for place in places:
            weights.append(_weights_at(place.output, at))
        tracer.stop()
    if any(recorded is None for recorded in weights):
        raise UnsupportedBackbone(
            f"{type(backbone.model).__name__} does not return its attention weights"
        )
    return weights


def attention_patterns(
    backbone: Backbone,
    batch: Batch | Source | Sequence[Source],
    layers: int | Sequence[int],
    heads: Sequence[int] | None = None,
) -> dict[int, list[Float[Tensor, "heads tokens tokens"]]]:
    """What each token of a row attends to, in some layers.

    All attention of this forward is computed step by step, since fused kernels do not return their
    weights, and one mask serves all layers. It stops after the deepest of the layers.

    Args:
        backbone: The model to read.
        batch: What `backbone.encode` returns, or what it takes.
        layers: Layers, counted from the end where they are negative.
        heads: Heads of each layer in this order, all by default.

    Returns:
        By layer, counted from the start, for each row the weights `[heads, from, to]`, float32 on
        the device of the layer, without padding.

    Raises:
        BadItem: An item cannot be read.
        BadSetting: There is no such layer or head.
        UnsupportedBackbone: A layer has no attention, or does not return its weights.
        OutOfMemory: The batch does not fit in memory.
    """
    chosen = as_layers(layers, backbone.num_layers)
    if not chosen:
        raise BadSetting("no attention to record: name at least one layer")
    whole = batch if isinstance(batch, Batch) else backbone.encode(batch)
    read = whole.reading("all")
    patterns = {}
    for layer, weights in zip(chosen, record_attention(backbone, read, chosen), strict=True):
        count = weights.shape[1]
        if missing := [head for head in heads or () if not 0 <= head < count]:
            raise BadSetting(f"layer {layer} has heads 0 to {count - 1}, not {missing[0]}")
        kept = weights if heads is None else weights[:, list(heads)]
        patterns[layer] = [
            row[..., [column for _, column in places]].movedim(0, 1)
            for row, places in zip(read.by_row(kept), read.read, strict=True)
        ]
    return patterns


def record_inputs(
    backbone: Backbone, batch: Batch, modules: Sequence[str]
) -> list[Float[Tensor, "positions width"]]:
    """What some modules read at the positions in `Batch.read`: the first input of each, row after
    row, in the model's dtype. They are dotted paths in order of execution; the forward pass ends
    when the last of them is reached. Raises OutOfMemory."""
    with _forward(backbone, batch):
        traced: Any = _traced_model(backbone)
        places: list[Place] = [(traced.get(path), "input") for path in modules]
        return _trace(traced, backbone, batch, places, _places(backbone, batch.read))


def _means(
    states: Float[Tensor, "tokens hidden"], places: Sequence[Sequence[Any]]
) -> Float[Tensor, "rows hidden"]:
    """The mean of the unit vectors of each row, which has as many states as places; float32."""
    lengths = to_device(torch.tensor([len(of_row) for of_row in places]), states.device)
    return torch.segment_reduce(_unit(states), "mean", lengths=lengths, unsafe=True)


def _unit(states: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
    return nn.functional.normalize(states.float(), dim=-1)


def _places(backbone: Backbone, read: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """Row and column of every position that is read, `[positions, 2]`."""
    places = [place for places in read for place in places]
    return to_device(torch.tensor(places, dtype=torch.long).reshape(-1, 2), backbone.device)


def _weights_at(output: Any, places: Tensor) -> Tensor | None:
    """A copy of the weights of some places, which attention returns as its second output."""
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if weights is None:
        return None
    row, column = places.to(weights.device).T
    return weights[row, :, column].float()


@contextmanager
def _returning_weights(backbone: Backbone) -> Iterator[None]:
    """Compute attention step by step: fused kernels do not return its weights."""
    config = backbone.model.config.get_text_config(decoder=True)
    fused = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = fused


def _place(traced: Any, anatomy: Anatomy, site: Site) -> Place:
    """The module that holds the state of a site, and whether as its input or as its output."""
    layers = traced.get(anatomy.layers)
    match site.kind:
        case "embed":
            return layers[0], "input"
        case "attn":  # h^Attn: the input of the module that reads the stream after attention
            return layers[site.layer].get(anatomy.mid), "input"
        case "mlp":
            return layers[site.layer], "output"
        case "norm":
            return traced.get(anatomy.norm), "output"
        case _:
            assert_never(site.kind)


def _traced_model(backbone: Backbone) -> Traced:
    """The model's nnsight wrapper, created on first use."""
    if backbone not in _traced:
        with silence():  # nnsight warns of towers with a submodule that is called "output"
            _traced[backbone] = Traced(backbone.model)
    return _traced[backbone]


def _read(value: Any, rows: int, places: Tensor) -> Tensor:
    """A copy of the states at some places; a view would keep the whole tensor alive."""
    value = value[0] if isinstance(value, tuple) else value
    row, column = places.to(value.device).T
    # OPT's MLP reads [batch·time, hidden].
    return value.reshape(rows, -1, value.shape[-1])[row, column]


@contextmanager
def around_forward(backbone: Backbone, path: str, function: Callable[..., Any]) -> Iterator[None]:
    """Within the context, a module computes `function(forward, *args, **kwargs)`.

    nnsight and hooks read what the function returns. A forward hook would come too late to change
    it: nnsight reads outputs before, by its controller in the place of the module's `forward`,
    which calls the module's own one as `body`.
    """
    state = _traced_model(backbone).get(path)._module.forward.state
    body = state.body

    def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        return function(functools.partial(body, module), *args, **kwargs)

    state.body = forward
    try:
        yield
    finally:
        state.body = body


@contextmanager
def without_save() -> Iterator[None]:
    """Temporarily remove the `save` method that nnsight adds to every object."""
    mounted = hasattr(object, "save")
    if mounted:
        unmount("save")
    try:
        yield
    finally:
        if mounted:
            mount(nnsight.save, "save")
