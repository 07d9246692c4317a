"""Turn prompted items into a left-padded batch: render, process, splice, collate.

Content must never act as a prompt. So the chat template and the processor only see a marker in its
place. Then each span of plain tokens that holds a marker is tokenised again with the content in
it, by a tokenizer without control tokens. The tokens are those of the whole text, without a seam,
and no text can open a turn or forge a media placeholder.
"""

import functools
import inspect
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor, nn

from probes.errors import BadItem, BadSetting, UnsupportedBackbone
from probes.items import Item, Part
from probes.media.perception import Perception, Piece
from probes.media.sources import MediaOptions
from probes.media.towers import to_device
from probes.model.encoding.content import MARKER, filled, overlapping
from probes.model.encoding.fitting import fit_media, shares
from probes.model.encoding.plain import PlainTokenizer
from probes.model.encoding.rows import Batch, Row
from probes.model.encoding.templates import ChatTemplate, Thinking
from probes.prompts import Prompted

log = logging.getLogger(__name__)

MAX_TOKENS = 32_768
"""Default limit of a row's length, even where the model claims a longer context."""
SEEING = "HuggingFaceTB/SmolVLM-256M-Instruct, or without the hub smolsight (everyday things)"
READERS = {"image": SEEING, "video": SEEING, "audio": "Qwen/Qwen2.5-Omni-3B"}
"""Models to suggest where a backbone reads text only."""


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of a rendered prompt."""

    ids: list[int]
    text: str | None
    """Their text where content has to be spliced into it, else None."""
    first: bool = False
    """Whether the row begins with them, not counting a BOS that the tokenizer adds."""


class Encoder:
    """Turns items and prompts into tokens with a model's tokenizer, processor and chat template."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any = None,
        max_tokens: int | None = None,
        media: MediaOptions | None = None,
    ):
        self.plain = PlainTokenizer(tokenizer)
        self.tokenizer, self.processor = tokenizer, processor
        self.perception: Perception | None = None
        self.modalities, self.opening = ["text"], ""
        tokens, types = {}, None
        if processor is not None:
            self.perception = Perception(model, processor, media or MediaOptions())
            self.modalities += self.perception.kinds
            self.opening = self.perception.opening()
            tokens, types = self.perception.tokens, self.perception.types_name
        template = getattr(processor, "chat_template", None) or tokenizer.chat_template
        self.chat = ChatTemplate(processor or tokenizer, template, tokens) if template else None
        media_ids = (
            getattr(model.config, f"{k}_token_id", None) for k in ("image", "video", "audio")
        )
        self.media_ids: set[int] = {id for id in media_ids if id is not None}
        """Placeholder tokens, which the features of a tower replace."""
        text_config = model.config.get_text_config(decoder=True)
        limit = getattr(text_config, "max_position_embeddings", None) or MAX_TOKENS
        self.max_tokens = max_tokens or min(limit, MAX_TOKENS)
        pad = tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else (tokenizer.eos_token_id or 0)
        accepted = inspect.signature(model.forward).parameters
        # M-RoPE models compute positions of several axes themselves.
        self.mrope = hasattr(model.base_model, "get_rope_index")
        self.wants_positions = "position_ids" in accepted and not self.mrope
        self.counts_positions = self.mrope and types == "mm_token_type_ids"
        self.media_follow_prefix = self.counts_positions if self.mrope else types is None
        """Whether rows with media can share: Gemma's masks, Qwen2.5-Omni's positions forbid it."""
        self._placeholders = functools.lru_cache(maxsize=64)(
            lambda text: sum(t in self.media_ids for t in self.tokenizer(text)["input_ids"])
        )
        self._text_skeleton = functools.lru_cache(maxsize=256)(self._text_skeleton_uncached)

    # -- one row -----------------------------------------------------------------------------

    def row(self, source: "Item | Prompted", name: str | None = None, *, reserved: int = 0) -> Row:
        """Tokenise an item as it is, or a prompted exchange.

        Where the row would leave fewer than `reserved` tokens of `max_tokens`, media are scaled
        down and text is cut at its end, with a logged warning. Raises BadItem, which names the
        item, when content cannot be encoded.
        """
        limit, raw = self.max_tokens - reserved, isinstance(source, Item)
        if isinstance(source, Item):
            name, source = name or source.name, Prompted(user=source.parts)
        name = name or "the prompt"
        contents = [p.value for p in source.user if isinstance(p, Part) and p.kind == "text"]
        media = [p for p in source.user if isinstance(p, Part) and p.kind != "text"]
        if media and self.perception is None:
            raise BadItem(
                f"{name}: this backbone reads text only, and the item holds {media[0].kind}. "
                f"Choose a model (--model) that reads it, such as {READERS[media[0].kind]}"
            )
        marked = _mark(source.user)
        pieces: list[Piece] = []
        per_token: dict[str, list[int]] = {}
        if media and self.perception is not None:
            # Before rendering, since templates silently drop media that their model does not read.
            pieces = self.perception.pieces(media, name)
            rendered = self.opening + self.render(marked, source.system, source.prefill)
            pieces, ids, skeleton = self._with_media(
                self.perception, rendered, pieces, contents, limit
            )
            per_token = self.perception.token_types(ids)
        else:
            skeleton = self._text_skeleton(marked, source.system, source.prefill, raw)
        markers = {int(i) for span in skeleton for i in MARKER.findall(span.text or "")}
        if markers != set(range(len(contents))):
            raise UnsupportedBackbone(
                "the chat template does not write the content it is given: all items would be the "
                "same row; give the tokenizer or processor another chat_template"
            )
        row = self._splice(skeleton, per_token, contents, name)
        if len(row) > limit:
            fitted = self._fit(contents, skeleton, name, pieces, limit)
            row = self._splice(skeleton, per_token, fitted, name)
        spans = self._media_spans(row.ids, pieces)
        content = tuple(sorted((*row.content, *spans)))
        return replace(row, media=tuple(pieces), spans=spans, content=content)

    def _with_media(
        self,
        perception: Perception,
        rendered: str,
        pieces: list[Piece],
        texts: list[str],
        limit: int,
    ) -> tuple[list[Piece], list[int], list["Span"]]:
        """Expand the placeholders of a rendered prompt and tokenise it. Media are scaled down where
        they leave too little room for the texts, for which at most half of the room beside the
        prompt is kept."""
        text = perception.expand(rendered, pieces)
        ids = self._tokenize_rendered(text)
        if len(ids) + 4 * sum(map(len, texts)) > limit:  # at most 4 tokens per character
            needed = sum(self._count(piece.processed.text) for piece in pieces)
            content = limit - (len(ids) - needed)
            room = content - min(sum(map(self._count, texts)), content // 2)
            if needed > room:
                pieces = fit_media(perception, pieces, room, self._count)
                text = perception.expand(rendered, pieces)
                ids = self._tokenize_rendered(text)
                now = sum(self._count(piece.processed.text) for piece in pieces)
                name = pieces[0].name
                log.warning("%s: its media are scaled down, %d to %d tokens", name, needed, now)
        return pieces, ids, self._spans(ids, text)

    def _media_spans(self, ids: list[int], pieces: list[Piece]) -> tuple[tuple[int, int], ...]:
        places = [i for i, id in enumerate(ids) if id in self.media_ids] if pieces else []
        counts = (self._placeholders(piece.processed.text) for piece in pieces)
        ends = itertools.pairwise(itertools.accumulate(counts, initial=0))
        return tuple((places[start], places[stop - 1] + 1) for start, stop in ends)

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text_skeleton_uncached(
        self, marked: tuple, system: str | None, prefill: str, raw: bool
    ) -> list["Span"]:
        text = self.opening + ("".join(marked) if raw else self.render(marked, system, prefill))
        return self._spans(self._tokenize_rendered(text), text)

    def _tokenize_rendered(self, text: str) -> list[int]:
        """Tokens of trusted text, control tokens among them. An end token that the tokenizer adds
        is dropped."""
        ids = self.tokenizer(text, add_special_tokens=self._wants_special(text))["input_ids"]
        eos = self.tokenizer.eos_token_id
        if ids and ids[-1] == eos and not text.endswith(str(self.tokenizer.eos_token)):
            ids = ids[:-1]
        return ids

    def render(self, marked: Sequence, system: str | None, prefill: str) -> str:
        """The exchange as a string: by the chat template, or plainly for a base model."""
        if self.chat is None:
            # An opening quotation mark continues the line; a cue such as "Answer:" starts one.
            cue = f"\n{prefill}" if prefill[:1].isalpha() else f" {prefill}"
            return "\n\n".join(filter(None, [system, "".join(marked)])) + cue.rstrip(" ")
        try:
            return self.chat.render(marked, system) + prefill
        except TemplateError:
            if system is None:
                raise
            # Some templates refuse a system turn (Gemma 2); its text then opens the user's turn.
            return self.chat.render((f"{system}\n\n", *marked)) + prefill

    def wording(self, source: Prompted) -> str:
        """The exchange as it is tokenised, with `{text}`, `{image}`, … in place of content."""
        marked = [p if isinstance(p, str) else f"{{{p.kind}}}" for p in source.user]
        return self.render(marked, source.system, source.prefill)

    @property
    def thinking(self) -> Thinking:
        """How the model is kept from thinking before it answers; "none" if it does not think."""
        return self.chat.thinking if self.chat else "none"

    @property
    def keeps_order(self) -> bool:
        """Whether the chat template keeps text and media in order; where it does not, `render`
        does."""
        return self.chat is None or self.chat.keeps_order

    def _wants_special(self, text: str) -> bool:
        """Whether the tokenizer has to add its BOS, because the text does not begin with it."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _spans(self, ids: Sequence[int], rendered: str) -> list["Span"]:
        """Split tokens at control tokens; a span of plain tokens with a marker keeps its text."""
        spans, position = [], 0
        bos = int(self._wants_special(rendered) and ids[:1] == [self.tokenizer.bos_token_id])
        for control, group in itertools.groupby(ids, self.plain.control_ids.__contains__):
            tokens = list(group)
            first = position == bos
            # SentencePiece drops a leading space, unless a token comes before it.
            lead = [] if first or control else list(ids[position - 1 : position])
            text = "" if control else self._decode([*lead, *tokens])
            text = text.removeprefix(self._decode(lead) if lead else "")
            spans.append(Span(tokens, text if MARKER.search(text) else None, first))
            position += len(tokens)
        return spans

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _splice(
        self, skeleton: list["Span"], per_token: dict, contents: list[str], name: str
    ) -> Row:
        ids: list[int] = []
        extras: dict[str, list[int]] = {key: [] for key in per_token}
        content: list[tuple[int, int]] = []
        position = 0
        for span in skeleton:
            new = span.ids
            if span.text is not None:
                text, stretches = filled(span.text, contents)
                encoding = self.plain.checked(text, name, first=span.first)
                new = encoding.ids
                content += overlapping(encoding.offsets, stretches, len(ids))
            ids.extend(new)
            for key, values in per_token.items():
                fixed = span.text is None
                extras[key] += values[position : position + len(new)] if fixed else [0] * len(new)
            position += len(span.ids)
        return Row(ids, extras, content=tuple(content))

    def _fit(
        self,
        contents: list[str],
        skeleton: list[Span],
        name: str,
        pieces: list[Piece],
        limit: int,
    ) -> list[str]:
        """Cut the longest contents at their end, so that the row has at most `limit` tokens."""
        fixed = sum(len(span.ids) for span in skeleton)
        room = limit - fixed
        if room <= 0:
            which = "prompt and media need" if pieces else "prompt alone needs"
            raise BadItem(f"{name}: its {which} {fixed} of {limit} tokens")
        encoded = [self.plain.encode(text) for text in contents]
        fitted = list(contents)
        for i, share in enumerate(shares([len(encoding.ids) for encoding in encoded], room)):
            length = len(encoded[i].ids)
            if length > share:
                log.warning("%s: cut from %d to %d tokens", name, length, share)
                fitted[i] = contents[i][: encoded[i].offsets[share - 1][1]] if share else ""
        return fitted

    def identity(self) -> str:
        """Everything that decides how text becomes tokens, as a string."""
        chat = self.chat and self.chat.identity()
        return self.tokenizer.backend_tokenizer.to_str() + str(chat)

    @functools.cached_property
    def _axes(self) -> int:
        """Number of axes of an M-RoPE position."""
        assert self.perception is not None
        return len(self.perception.positions([self.pad_id], [0], ()))

    def positions(self, row: Row) -> Tensor:
        """M-RoPE positions `[axes, length]` of a row, which do not depend on its batch."""
        assert self.perception is not None
        if not row.media:  # text has the same position on all axes
            return torch.arange(len(row)).expand(self._axes, -1)
        types = row.per_token.get("mm_token_type_ids", [0] * len(row))
        return self.perception.positions(row.ids, types, row.media)

    # -- many rows ---------------------------------------------------------------------------

    def collate(self, rows: Sequence[Row], device: torch.device) -> Batch:
        """Left-pad rows to one batch, with the features of their media."""
        if not rows:
            raise BadSetting("nothing to encode: give at least one item")
        width = max(len(row) for row in rows)

        def pad(values: Sequence[Sequence[int]], fill: int) -> Tensor:
            padded = [[fill] * (width - len(v)) + list(v) for v in values]
            return to_device(torch.tensor(padded), device)

        inputs: dict[str, Any] = {
            "input_ids": pad([row.ids for row in rows], self.pad_id),
            "attention_mask": pad([[1] * len(row) for row in rows], 0),
        }
        for key in {key for row in rows for key in row.per_token}:
            inputs[key] = pad([row.per_token.get(key, [0] * len(row)) for row in rows], 0)
        pieces = [piece for row in rows for piece in row.media]
        if pieces and self.perception is not None:
            inputs |= self.perception.inputs(pieces, device)
        if self.counts_positions and self.perception is not None:
            positions = [
                row.positions if row.positions is not None else self.positions(row) for row in rows
            ]
            padded = [nn.functional.pad(p, (width - p.shape[1], 0)) for p in positions]
            inputs["position_ids"] = to_device(torch.stack(padded, dim=1), device)
        elif self.wants_positions:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        read = [
            [(number, column) for column in range(width - row.read, width)]
            for number, row in enumerate(rows)
        ]
        starts = [width - len(row) for row in rows]
        averaged = [
            [(number, start + place) for place in row.averaged]
            for number, (row, start) in enumerate(zip(rows, starts, strict=True))
        ]
        return Batch(inputs, [len(row) for row in rows], read, averaged)


def _mark(user: tuple) -> tuple:
    """Replace text content by numbered markers and media by the template's placeholders."""
    marked: list[Any] = []
    count = 0
    for before, piece in zip((None, *user), user, strict=False):
        if isinstance(piece, Part) and piece.kind != "text":
            marked.append({"type": piece.kind})
            continue
        text = piece if isinstance(piece, str) else f"\ue000{count}\ue001"
        if isinstance(piece, Part) and isinstance(before, Part) and before.kind == "text":
            text = f"\n{text}"  # one text per line, as in Item.text
        count += isinstance(piece, Part)
        # Texts between two media are joined, since some templates trim every piece (Gemma 3).
        if marked and isinstance(marked[-1], str):
            marked[-1] += text
        else:
            marked.append(text)
    return tuple(marked)
