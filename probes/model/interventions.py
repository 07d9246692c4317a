"""Interventions: change the residual stream while the model runs, and see what follows from it.

    with intervene(backbone, {"mlp[-1]": skip}):
        backbone.generate("The capital of France is")

An intervention is a function `(before, after) -> after` of the residual stream before and after a
sublayer, `[batch, tokens, hidden]`. Everything downstream reads what it returns: the sublayers, the
states that `record` reads at this site and behind it, the logits.

They are PyTorch hooks, and not edits of nnsight, which apply only to what runs inside one of its
traces: `generate` and a plain forward of the model would run as if there were none. An output is
changed inside the module's forward, by `around_forward`, since nnsight reads it before hooks do.

`attn[l]` is changed in place, in the tensor that enters the module that reads it. The layer adds
its MLP to this very tensor, so that no equation of the layer is assumed: Granite's multipliers and
the per-layer inputs of Gemma 4 are applied as ever. That the rest of the layer has nothing else
of the stream before it is confirmed numerically, once for each backbone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from probes.errors import BadSetting, UnsupportedBackbone
from probes.model.backbone import Backbone
from probes.model.encoding import Row
from probes.model.encoding.rows import Positions, chosen_tokens, token_slice
from probes.model.sites import Site
from probes.model.trace import around_forward

Intervention = Callable[[Tensor, Tensor], Tensor]
"""From the stream before and after a sublayer, `[batch, tokens, hidden]` each, to the stream that
replaces the latter. It leaves both as they are."""

Interventions = Mapping[str, Intervention] | Mapping[Site, Intervention]
"""By site."""

_confirmed: WeakSet[Backbone] = WeakSet()


def skip(before: Tensor, after: Tensor) -> Tensor:
    """The stream as if the sublayer had added nothing: its state before."""
    return before


def scale(factor: float) -> Intervention:
    """The stream with what the sublayer adds multiplied by a factor: `before + factor · write`."""
    return lambda before, after: before + factor * (after - before)


def replace(state: Tensor) -> Intervention:
    """The stream replaced by a state that broadcasts to `[batch, tokens, hidden]`: `[hidden]` for
    the same everywhere, `[batch, 1, hidden]` for one in each row."""

    def replaced(before: Tensor, after: Tensor) -> Tensor:
        try:
            return state.to(after).expand_as(after)
        except RuntimeError:
            raise BadSetting(
                f"a state {list(state.shape)} cannot replace states {list(after.shape)}: give "
                "[hidden] or [batch, 1, hidden]"
            ) from None

    return replaced


@contextmanager
def intervene(
    backbone: Backbone,
    interventions: Interventions,
    *,
    positions: Positions = "all",
) -> Iterator[None]:
    """Intervene in every forward pass of a backbone within a `with` block.

    It applies to `record`, `states_of`, `Backbone.generate`, retrieval and a plain forward of
    `backbone.model`, in the thread of the block; others wait for its end. Blocks may be nested:
    the inner one reads what the outer one leaves. Weights never change, and nothing is left behind.

    What backbones remember of earlier forwards is not used: rows are computed whole, without a
    shared prefix, and the fingerprint of the backbone differs, so that a store refuses the states.

    Args:
        backbone: The model.
        interventions: By site, `embed`, `attn[l]` or `mlp[l]`: `skip`, `scale(0.5)`,
            `replace(state)`, or any function of the stream before and after the sublayer. Before
            `embed` the stream is zero, before `attn[l]` it is the input of the layer, and before
            `mlp[l]` it is `attn[l]`.
        positions: The tokens at which it is changed: "all", "last", or a slice of the tokens of
            each row, padding left out. In a generation they are counted from the beginning of the
            row, with what has been generated so far: "last" is each new token in turn.

    Raises:
        BadSetting: There is no such site, a site is named twice, or an intervention is not a
            function or returns another shape.
        UnsupportedBackbone: `attn[l]` is named, and the layers of this model keep the stream in a
            form in which it cannot be changed there.
    """
    functions = _resolved(backbone, interventions)
    token_slice(positions)  # raises for what are no positions, before anything is hooked
    layers = backbone.model.get_submodule(backbone.anatomy.layers)
    with backbone.lock, ExitStack() as stack:
        if any(site.kind == "attn" for site in functions) and backbone not in _confirmed:
            _confirm(backbone, layers)
        tokens = _Tokens(positions)
        stack.enter_context(_hooked(backbone.model, tokens.see))
        for site, function in functions.items():
            change = _Change(str(site), function, tokens)
            _hook(stack, backbone, layers, site, change)
        before = backbone.interventions
        backbone.interventions = [*before, *(f"{s} at {positions}" for s in functions)]
        try:
            yield
        finally:
            backbone.interventions = before


def _resolved(backbone: Backbone, interventions: Interventions) -> dict[Site, Intervention]:
    functions: dict[Site, Intervention] = {}
    for name, function in interventions.items():
        site = Site.parse(name).single(backbone.num_layers)
        if site.kind == "norm":
            raise BadSetting(
                "the stream ends before the final norm: intervene at mlp[-1] instead of norm"
            )
        if site in functions:
            raise BadSetting(f"{name} names {site} twice: compose its interventions in a function")
        if not callable(function):
            raise BadSetting(
                f"{name}: give skip, scale(0.5), replace(state) or a function of the stream before "
                f"and after, not {function!r}"
            )
        functions[site] = function
    return functions


def _hook(stack: ExitStack, backbone: Backbone, layers: Any, site: Site, change: "_Change") -> None:
    """Hook an intervention to the modules of its site."""
    layer, path = layers[site.layer], f"{backbone.anatomy.layers}.{site.layer}"
    mid = layer.get_submodule(backbone.anatomy.mid)
    match site.kind:
        case "embed":
            stack.enter_context(_hooked(layer, change.input))
        case "attn":
            stack.enter_context(around_forward(backbone, path, change.before_layer))
            stack.enter_context(_hooked(mid, change.in_place))
        case "mlp":
            stack.enter_context(_hooked(mid, change.see))
            stack.enter_context(around_forward(backbone, path, change.after_layer))
        case _:
            raise AssertionError(f"no intervention knows how to change {site}")


class _Tokens:
    """Which tokens of the forward that runs are changed."""

    def __init__(self, positions: Positions):
        self.positions: Positions = positions
        self.mask: Tensor | None = None
        self.cached = 0

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Read the attention mask of the model's forward, and how many tokens its cache holds."""
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            raise BadSetting(
                "an intervention needs whole rows, with a mask [batch, tokens]: make the batch "
                "inside of the block, or by Backbone.encode"
            )
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        self.mask, self.cached = mask, 0 if cache is None else cache.get_seq_length()

    def chosen(self, stream: Tensor) -> Tensor | None:
        """Truth values `[batch, tokens, 1]`, or None for all tokens."""
        if self.positions == "all":
            return None
        rows, tokens, _ = stream.shape
        mask = self.mask
        if mask is None:
            mask = stream.new_ones(rows, self.cached + tokens)
        return chosen_tokens(mask, self.positions)[:, -tokens:, None].to(stream.device)


class _Change:
    """An intervention at one site, in the forms of hooks."""

    def __init__(self, site: str, function: Intervention, tokens: _Tokens):
        self.site, self.function, self.tokens = site, function, tokens
        self.before: Tensor | None = None

    def see(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Keep what enters a module as the stream before."""
        self.before = _entering(args, kwargs)

    def input(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Change what enters a module, before which there is no stream."""
        after = _entering(args, kwargs)
        return _entered(args, kwargs, self.of(torch.zeros_like(after), after))

    def in_place(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Change what enters a module in the tensor itself, to which the layer adds its MLP."""
        after = _entering(args, kwargs)
        before, self.before = self.before, None
        assert before is not None
        after.copy_(self.of(before, after.reshape(before.shape)).reshape(after.shape))

    def before_layer(self, layer: Callable, *args: Any, **kwargs: Any) -> Any:
        """Keep what enters a layer as the stream before."""
        self.before = _entering(args, kwargs)
        return layer(*args, **kwargs)

    def after_layer(self, layer: Callable, *args: Any, **kwargs: Any) -> Any:
        """Change what a layer puts out."""
        output = layer(*args, **kwargs)
        after = output[0] if isinstance(output, tuple) else output
        before, self.before = self.before, None
        assert before is not None
        new = self.of(before.reshape(after.shape), after)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def of(self, before: Tensor, after: Tensor) -> Tensor:
        """The new stream, which is the old one at tokens that are not chosen."""
        new = self.function(before, after)
        if not isinstance(new, Tensor) or new.shape != after.shape:
            found = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise BadSetting(
                f"{self.site}: the intervention must return states {list(after.shape)}, not {found}"
            )
        new = new.to(after)
        chosen = self.tokens.chosen(after)
        return new if chosen is None else torch.where(chosen, new, after)


def _entering(args: tuple, kwargs: dict) -> Tensor:
    """The stream among the arguments of a module."""
    return args[0] if args else kwargs["hidden_states"]


def _entered(args: tuple, kwargs: dict, stream: Tensor) -> tuple[tuple, dict]:
    """The arguments of a module with another stream."""
    return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})


@contextmanager
def _hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _confirm(backbone: Backbone, layers: Any) -> None:
    """Confirm that what a layer puts out depends on the stream through the tensor that enters
    `anatomy.mid` alone: fix it in place, change what enters the layer, and compare.

    Raises:
        UnsupportedBackbone: The message names a layer of which this does not hold.
    """
    ids = backbone.encoder.plain.tokenize("one two three four five")
    inputs = backbone.collate([Row(ids)]).inputs

    def outputs(factor: float) -> list[Tensor]:
        found: list[Tensor] = []

        def enter(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return _entered(args, kwargs, factor * _entering(args, kwargs))

        def fix(module: nn.Module, args: tuple, kwargs: dict) -> None:
            mid = _entering(args, kwargs)
            mid.copy_(torch.linspace(-1, 1, mid.shape[-1]).expand_as(mid))

        def leave(module: nn.Module, args: tuple, output: Any) -> None:
            found.append((output[0] if isinstance(output, tuple) else output).clone())

        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(_hooked(layer, enter))
                stack.enter_context(_hooked(layer.get_submodule(backbone.anatomy.mid), fix))
                stack.callback(layer.register_forward_hook(leave).remove)
            backbone.model(**inputs, use_cache=False)
        return found

    for number, (one, other) in enumerate(zip(outputs(1.0), outputs(2.0), strict=True)):
        if not torch.equal(one, other):
            raise UnsupportedBackbone(
                f"{backbone.anatomy.layers}.{number} keeps a second copy of the stream after "
                f"attention: it cannot be changed at attn[{number}] (nor be skipped there); "
                "intervene at mlp[l]"
            )
    _confirmed.add(backbone)
