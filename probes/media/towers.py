"""Vision towers: features of media, computed once and given to the language model.

The model takes them as `mm_encoder_outputs` in place of pixels. Media of one kind go through their
tower together, without any padding, where the features of each are then those that it has alone.
That is confirmed with the first of them; the families where it does not hold go one by one.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from probes.media.cache import Processed

TOWERS = {"pixel_values": "image", "pixel_values_images": "image", "pixel_values_videos": "video"}
"""The tower (`get_…_features`) that reads each kind of pixels."""
CALL_BYTES = 2**26
"""Most bytes of pixels in one call of a tower, unless a single medium has more."""
TOLERANCE = 1e-5
"""Largest relative difference in float32 between features computed together and alone."""
IN_HALF = 0.05
"""Largest relative difference in half precision, of features and of hidden states, between two ways
to compute the same."""


class Towers:
    """The towers of one model."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model = model
        ids = {kind: getattr(model.config, f"{kind}_token_id", None) for kind in TOWERS.values()}
        self.tokens = {k: tokenizer.convert_ids_to_tokens(id) for k, id in ids.items() if id}
        """The placeholder of each kind."""
        self._independent: dict[tuple, bool] = {}
        """Whether media that are alike do not depend on each other, for each case."""
        self._unpooled: set[str] = set()
        """Kinds of pixels whose tower has no output for the first layer."""

    def encode(self, media: Sequence[Processed], device: Any) -> list[Processed]:
        """Media in one view, with features in place of their pixels, on the device of the tower.

        They come back unchanged where no tower reads them, or where the tower feeds deeper layers
        only (Granite 4 Vision): the model then runs the tower itself.
        """
        encoded: dict[int, Processed] = {}
        for places in _alike(media):
            for call in self._calls(places, media, device):
                outputs = self._together([media[place] for place in call], device)
                encoded.update(zip(call, outputs, strict=True))
        return [encoded[place] for place in range(len(media))]

    def _calls(
        self, places: Sequence[int], media: Sequence[Processed], device: Any
    ) -> Iterator[list[int]]:
        """Media that are alike, cut into calls of the tower."""
        call: list[int] = []
        together = len(places) > 1 and self._independence([media[p] for p in places], device)
        for place in places:
            if call and not (together and sum(media[p].size for p in [*call, place]) <= CALL_BYTES):
                yield call
                call = []
            call.append(place)
        yield call

    def _independence(self, media: Sequence[Processed], device: Any) -> bool:
        """Whether the features of media that are alike are those that each has alone. It is tried
        once for media of one size, and once for media of several sizes."""
        other = next((one for one in media[1:] if _extent(one) != _extent(media[0])), None)
        case = (*media[0].tensors, other is None)
        if case not in self._independent:
            self._independent[case] = self._try([media[0], other or media[1]], device)
        return self._independent[case]

    def _try(self, pair: Sequence[Processed], device: Any) -> bool:
        try:
            together = self._together(pair, device)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError):  # made for a single medium
            return False
        tolerance = TOLERANCE if self.model.dtype == torch.float32 else IN_HALF
        for medium, one in zip(pair, together, strict=True):
            (alone,) = self._together([medium], device)
            for name, output in alone.features.items():
                expected, found = (
                    _flat(output.pooler_output),
                    _flat(one.features[name].pooler_output),
                )
                if expected.shape != found.shape:
                    return False
                difference = (found - expected).float().norm() / expected.float().norm()
                if not difference <= tolerance:
                    return False
        return True

    @torch.no_grad()
    def _together(self, media: Sequence[Processed], device: Any) -> list[Processed]:
        """One call of the tower. Raises ValueError where its output cannot be divided."""
        pixels = next((key for key in TOWERS if key in media[0].tensors), None)
        if pixels is None or pixels in self._unpooled:
            return list(media)
        tower = getattr(self.model.base_model, f"get_{TOWERS[pixels]}_features")
        accepted = inspect.signature(tower).parameters
        inputs = [{**one.positions, **one.tensors} for one in media]
        joined = {
            key: to_device(torch.cat([given[key] for given in inputs]), device)
            for key in inputs[0]
            if key in accepted
        }
        output = tower(**joined, return_dict=True)
        if output.pooler_output is None:
            self._unpooled.add(pixels)
            return list(media)
        name = self._name(TOWERS[pixels], media[0].text)
        counts = [sum(map(one.text.count, self.tokens.values())) for one in media]
        return [
            replace(one, tensors={}, features={name: part})
            for one, part in zip(media, _divided(output, counts), strict=True)
        ]

    def _name(self, kind: str, text: str) -> str:
        """The name under which the model takes features. GLM and Molmo2 write the image token for
        videos too, and put features in order wherever that token stands."""
        return "image" if kind == "video" and self.tokens.get("image", "\0") in text else kind


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Pixels and sounds in the dtype of the model, as `BatchFeature.to` brings them: not every
    tower does it itself."""
    return {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
    }


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Inputs on the device. A GPU is not waited for, so that a batch is prepared while the one
    before it is computed; such copies start from memory that is pinned."""
    if device.type == "cuda" and torch.cuda.is_available():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy results from the device; the function that is returned waits for the copy and
    returns it. What is computed on a GPU after this call is not waited for."""
    if not tensor.is_cuda:
        copy = tensor.cpu()
        return lambda: copy
    copy = tensor.to("cpu", non_blocking=True)  # into memory that is pinned
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        copied.synchronize()
        return copy

    return wait


def _alike(media: Sequence[Processed]) -> list[list[int]]:
    """Places of media that can be joined without padding."""
    groups: dict[tuple, list[int]] = {}
    for place, one in enumerate(media):
        tensors = {**one.positions, **one.tensors}
        form = tuple((key, tensor.shape[1:]) for key, tensor in tensors.items())
        groups.setdefault(form, []).append(place)
    return list(groups.values())


def _extent(one: Processed) -> list:
    """The size of a medium: patches or tiles, and the grid in which they stand."""
    return [*map(len, one.tensors.values()), *(p.tolist() for p in one.positions.values())]


def _divided(output: Any, counts: Sequence[int]) -> list[Any]:
    """The tower's output for each medium, with nothing but its features: one `[tokens, hidden]`
    tensor, in a list where the model expects lists, and one for each layer that DeepStack feeds."""
    lists = isinstance(output.pooler_output, list | tuple)
    flat = _flat(output.pooler_output)
    counts = [len(flat)] if len(counts) == 1 else counts
    if sum(counts) != len(flat):
        raise ValueError(f"{len(flat)} features for {sum(counts)} placeholders")
    layers = [_flat(layer).split(counts) for layer in _deepstack(output)]
    divided = []
    for place, part in enumerate(flat.split(counts)):
        pooled = part.clone()  # a view would keep the features of all in memory
        more = {"deepstack_features": [[layer[place].clone()] for layer in layers]}
        divided.append(
            type(output)(
                pooler_output=[pooled] if lists else pooled[None], **(more if layers else {})
            )
        )
    return divided


def _flat(features: Any) -> Tensor:
    """Features as one tensor `[tokens, hidden]`."""
    tensors = features if isinstance(features, list | tuple) else [features]
    return torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors])


def _deepstack(output: Any) -> Sequence[Any]:
    return getattr(output, "deepstack_features", None) or []


def merge(outputs: Sequence[Any], device: Any) -> Any:
    """Features of several media as one output of the tower."""
    lists = isinstance(outputs[0].pooler_output, list)
    pooled = [output.pooler_output[0].to(device) for output in outputs]
    layers = zip(*(_deepstack(output) for output in outputs), strict=True)
    more = [[part[0].to(device) for part in layer] for layer in layers]
    return type(outputs[0])(
        pooler_output=pooled if lists else torch.cat(pooled)[None],
        **({"deepstack_features": more} if more else {}),
    )
