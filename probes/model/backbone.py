"""Backbone: a transformers model with its tokenizer or processor, whose weights never change."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import TextStreamer

from probes.arguments import check_count
from probes.errors import BadSetting, FreeRetError, UnsupportedBackbone, one_line
from probes.items import as_item
from probes.media.sources import MediaOptions
from probes.model.anatomy import Anatomy, resolve
from probes.model.encoding import Batch, Encoder, Row
from probes.model.fingerprint import processor_digest, versions, weights_digest
from probes.model.loading import Loading
from probes.model.locate import check_model
from probes.model.offloading import check_weights, device_of, loaded
from probes.model.pretrained import OutOfMemory, load_pretrained
from probes.model.sites import Site
from probes.prompts import Prompted, Source, as_sources

FIXED = {"device", "dtype", "attn", "device_map", "quantize"}
"""Settings that cannot be changed once a model is loaded."""
OF_MEDIA = ("images", "videos", "frames", "max_pixels")
"""Settings that `Loading` and `MediaOptions` share."""


class Backbone:
    """A language model to read states from; `Backbone.load` makes it.

    Attributes:
        model: The transformers model.
        tokenizer: Its tokenizer.
        processor: Its processor, or None for a model of text only.
        name: The alias, folder, hub id or label that reports and stores call it by.
        revision: The commit of a model on the hub.
        loading: The settings in effect; where one is None, the model and the device decided.
        anatomy: Where its sublayers are.
        encoder: Makes rows of tokens, and batches of rows.
        lock: Held around every forward pass: a traced model is not thread-safe.
        interventions: Those that are in effect, within `probes.intervene`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        processor: Any,
        name: str,
        revision: str | None = None,
        media: MediaOptions | None = None,
        loading: Loading | None = None,
    ):
        if not hasattr(model, "config"):
            raise UnsupportedBackbone(
                f"a {type(model).__name__} is not a transformers model: it has no config"
            )
        if processor is not None and not hasattr(processor, "apply_chat_template"):
            raise BadSetting(f"a {type(processor).__name__} is not a transformers processor")
        loading = loading or Loading()
        options = _media_options(loading, media or MediaOptions())
        self.loading = replace(loading, **{name: getattr(options, name) for name in OF_MEDIA})
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer, self.processor, self.name = tokenizer, processor, name
        self.revision = revision
        self.lock = threading.RLock()
        self.interventions: list[str] = []
        self.encoder = Encoder(model, tokenizer, processor, self.loading.max_tokens, options)
        self.anatomy: Anatomy = self._resolved()

    def __repr__(self) -> str:
        place = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        return (
            f"Backbone({self.name!r}, {type(self.model).__name__}, {self.num_layers} layers, "
            f"{self.hidden_size} dimensions, {place})"
        )

    @classmethod
    def load(
        cls,
        model: Any,
        loading: Loading | None = None,
        *,
        tokenizer: Any = None,
        processor: Any = None,
        name: str | None = None,
        media: MediaOptions | None = None,
        quantization_config: Any = None,
        **settings: Any,
    ) -> "Backbone":
        """Load a backbone by its name, or wrap a transformers model that is loaded already.

        Args:
            model: The alias of an embedded backbone, a folder, a hub id, or a transformers model
                with its `tokenizer` or `processor`. A loaded model is not copied or moved, and its
                weights stay as they are; it is put into evaluation mode (`model.eval()`), and its
                parameters stop requiring gradients (`requires_grad_(False)`). To go on training
                it, undo both.
            loading: Device, dtype, size of pictures and all other settings of `Loading`.
            tokenizer: Replaces the tokenizer that comes with the model.
            processor: Replaces the processor that comes with the model.
            name: What reports, figures and stores call the backbone. The default is the name that
                it is loaded by, or that a loaded model carries. `FreeRet.load` finds the model of
                a store by it, and must be given the model where the name is only a label.
            media: Limits, the cache, and whether web addresses may be fetched. Its images, videos,
                frames and max_pixels apply where `loading` does not set them.
            quantization_config: A quantization of transformers that `quantize` does not name.
            settings: Fields of `Loading` by name, such as `dtype="bfloat16"`, on top of `loading`;
                `attn_implementation` is another name for `attn`.

        Returns:
            A backbone whose `loading` holds the settings that it was loaded with.

        Raises:
            BackboneNotFound: There is no model of that name or in that folder.
            FetchError: The weights of an embedded backbone cannot be fetched.
            UnsupportedBackbone: The model has no residual stream of the expected form.
            BadSetting: A setting does not exist, or does not fit the model.
            OutOfMemory: The model does not fit on the device.
        """
        loading = Loading.of(loading, settings)
        if not isinstance(media, MediaOptions | None):
            raise BadSetting(f"media must be probes.MediaOptions, not {media!r}")
        if not isinstance(name, str | None):
            raise BadSetting(f"name must be a str, not {name!r}")
        if isinstance(model, nn.Module):
            if tokenizer is None and processor is None:
                raise BadSetting("a loaded model needs its tokenizer= or processor=")
            if fixed := loading.given().keys() & FIXED:
                raise BadSetting(
                    f"{min(fixed)} cannot be set for a model that is loaded already; load it with "
                    "from_pretrained as it should be, or give its name"
                )
            if tokenizer is None:
                tokenizer = getattr(processor, "tokenizer", None)
            carried = getattr(getattr(model, "config", None), "_name_or_path", "")
            label = name or carried or type(model).__name__
            return cls(model, tokenizer, processor, label, loading.revision, media, loading)
        if type(model).__module__.split(".")[0] == "nnsight":
            raise UnsupportedBackbone(
                f"a {type(model).__name__} is a wrapper of nnsight: give the transformers model in "
                "it, with its tokenizer= or processor=; remote execution is not supported"
            )
        if not isinstance(model, str | Path):
            raise BadSetting(
                f"cannot load a {type(model).__name__} as a backbone; give an alias, a folder, a "
                "hub id, or a transformers model with its tokenizer= or processor="
            )
        check_model(model, loading)
        loaded = load_pretrained(model, loading, tokenizer, processor, quantization_config)
        label = name or str(model)
        return cls(
            loaded.model, loaded.tokenizer, loaded.processor, label, loaded.revision, media, loading
        )

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return self.anatomy.num_layers

    @property
    def hidden_size(self) -> int:
        """Dimensions of a state."""
        return self.anatomy.hidden_size

    @property
    def modalities(self) -> list[str]:
        """The kinds of content that the backbone reads: text, and whatever its processor takes."""
        return self.encoder.modalities

    @property
    def device(self) -> torch.device:
        """The device of inputs: that of the input embeddings, or the one that these are loaded to
        where they are offloaded."""
        return device_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the input embeddings, and so of the residual stream."""
        return self.model.get_input_embeddings().weight.dtype

    def row(self, source: Source, name: str | None = None) -> Row:
        """Tokenise an item or a prompted exchange.

        Args:
            source: The item, in any form that `as_item` reads, or the exchange.
            name: What messages call it; by default its id or place.

        Raises:
            BadItem: Its content cannot be read, or the backbone does not read its kind.
        """
        return self.encoder.row(source if isinstance(source, Prompted) else as_item(source), name)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Left-pad rows to one batch on the device. Media whose features are not cached go through
        their towers here."""
        with self.lock:
            return self.encoder.collate(rows, self.device)

    def rows(self, sources: Source | Sequence[Source]) -> list[Row]:
        """Tokenise several items or exchanges; a lone one, such as a str, is a list of one."""
        return [self.row(source, name) for source, name in as_sources(sources)]

    def encode(self, sources: Source | Sequence[Source]) -> Batch:
        """Tokenise and left-pad items and exchanges.

        Args:
            sources: Items in any form that `as_item` reads, and exchanges; a lone one is a list of
                one. Text alone is tokenised as it is, media are put into a user turn, and an
                exchange is rendered by the chat template.

        Returns:
            A batch on the device; `batch.inputs` are the model's keyword arguments.

        Raises:
            BadItem: One of them cannot be read; the message names it.
            BadSetting: There is none.
        """
        return self.collate([replace(row, mean=True) for row in self.rows(sources)])

    def word_rows(self, ids: Tensor) -> Float[Tensor, "words hidden"]:
        """Rows w_y of the LM head for the given token ids, in float32."""
        with self.lock, loaded(self.model, self.anatomy.head) as head:
            self._check_words(ids.tolist())
            return head.weight[ids.to(head.weight.device)].float()

    @torch.no_grad()
    def label_logits(
        self, norm_state: Float[Tensor, "batch hidden"], ids: Sequence[int]
    ) -> Float[Tensor, "batch words"]:
        """The model's logits of a few tokens, from states at `norm`, in float32."""
        with self.lock, loaded(self.model, self.anatomy.head) as head:
            self._check_words(list(ids))
            rows = torch.tensor(list(ids), dtype=torch.long, device=head.weight.device)
            logits = norm_state.to(rows.device).float() @ head.weight[rows].float().T
            if getattr(head, "bias", None) is not None:
                logits = logits + head.bias[rows].float()
        return self.anatomy.logits(logits)

    def _check_words(self, ids: Sequence[int]) -> None:
        size = self.model.get_submodule(self.anatomy.head).weight.shape[0]
        for id in ids:
            if not 0 <= id < size:
                raise BadSetting(f"there is no token {id}: the LM head has {size} words")

    @torch.no_grad()
    def lens(
        self, state: Float[Tensor, "batch hidden"], site: str | Site
    ) -> Float[Tensor, "batch vocabulary"]:
        """Logit lens (nostalgebraist, 2020): the logits of a model that ended at a site.

        Args:
            state: States recorded at `site`, `[batch, hidden]`.
            site: Where they were recorded. The LM head reads states at `norm` as they are, which
                gives the model's own logits; the final norm is applied to all others first.

        Returns:
            Logits `[batch, vocabulary]` in float32, with the model's scaling and softcap.

        Raises:
            BadSetting: The backbone has no such site, or the states do not have its width.
        """
        if not isinstance(state, Tensor) or state.shape[-1:] != (self.hidden_size,):
            raise BadSetting(
                f"give states of {self.hidden_size} dimensions in a tensor, as in "
                "record(backbone, texts, 'norm')['norm']"
            )
        norm, head = (self.model.get_submodule(p) for p in (self.anatomy.norm, self.anatomy.head))
        normed = Site.parse(site).resolve(self.num_layers).kind == "norm"
        with self.lock:
            state = state.to(device_of(head), head.weight.dtype)
            return self.anatomy.logits(head(state if normed else norm(state)))

    @torch.no_grad()
    def generate(
        self,
        source: Source,
        max_new_tokens: int = 128,
        *,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Continue an item or an exchange greedily.

        Args:
            source: The item, in any form that `as_item` reads, or the exchange.
            max_new_tokens: The most tokens that are generated.
            on_text: Called with each new piece of text as soon as it is generated. An error that
                it raises ends the generation.

        Returns:
            The generated text, stripped of white space around it.

        Raises:
            BadItem: The source cannot be read.
            BadSetting: `max_new_tokens` is not a whole number from 1 on.
        """
        check_count("max_new_tokens", max_new_tokens)
        batch = self.encode([source])
        inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
        with self.lock:
            tokens = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.encoder.pad_id,
                streamer=on_text and _Pieces(self.tokenizer, on_text),
            )
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return self.tokenizer.decode(new, skip_special_tokens=True).strip()

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the states of an item: model, revision, checksums of weights,
        tokenizer and processor, anatomy, dtype and versions."""
        return {
            "model": self.name,
            "revision": self.revision,
            "architecture": type(self.model).__name__,
            "weights": self.weights_digest(),
            "tokenizer": hashlib.sha256(self.encoder.identity().encode()).hexdigest()[:16],
            "processor": processor_digest(self.processor),
            "media": self.encoder.perception and self.encoder.perception.options.identity(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": getattr(self.model.config, "_attn_implementation", None),
            "layers": self.num_layers,
            "attn_site": self.anatomy.mid,
            "max_tokens": self.encoder.max_tokens,
            "versions": versions(),
            **({"interventions": list(self.interventions)} if self.interventions else {}),
        }

    def weights_digest(self, dtype: str | None = None) -> str:
        """A checksum over a sample of all weights, as they are or rounded to a dtype."""
        with self.lock:
            return weights_digest(self.model, dtype)

    def _resolved(self) -> Anatomy:
        """The anatomy; whatever an unknown model raises on the way becomes a typed error."""
        check_weights(self.model)
        try:
            return resolve(self.model, self._confirmation_batch().inputs)
        except FreeRetError:
            raise
        except torch.OutOfMemoryError as error:
            raise OutOfMemory.of(self.device, "load the model") from error
        except Exception as error:
            raise UnsupportedBackbone(
                f"{type(self.model).__name__}: two short rows of text cannot be computed "
                f"({one_line(error)}); a backbone must read text without media, and this class "
                "does not, at least in this release of transformers"
            ) from error

    def _confirmation_batch(self) -> Batch:
        """Two rows of random tokens that are not control tokens, one of them left-padded."""
        usable = self.model.get_input_embeddings().weight.shape[0]
        pool = sorted(set(range(usable)) - self.encoder.plain.control_ids - self._media_ids())
        pick = torch.Generator().manual_seed(0)
        ids = [pool[i] for i in torch.randint(len(pool), (11,), generator=pick).tolist()]
        return self.collate([Row(ids[:7]), Row(ids[7:])])

    def _media_ids(self) -> set[int]:
        config = self.model.config.to_dict()
        return {
            value
            for key, value in config.items()
            if key.endswith(("token_id", "token_index")) and isinstance(value, int)
        }


class _Pieces(TextStreamer):
    """Calls a function with each piece of generated text."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.on_text(text)


def _media_options(loading: Loading, media: MediaOptions) -> MediaOptions:
    """The options of media, with the settings that `loading` gives."""
    settings = loading.given()
    return replace(media, **{name: settings[name] for name in OF_MEDIA if name in settings})
