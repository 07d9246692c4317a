"""Reranking picture candidates: how often the vision tower runs, and what that saves.

    python benchmarks/multimodal.py

A LLaVA of random weights with a ViT tower and SmolLM2's tokenizer judges 50 pictures for each of
several text queries, by the Reranker, whose cache is emptied before every run, and by plain
transformers: processor, whole prompts with their pixels, logits of the last position, sorted into
batches of the best size. Interleaved, medians. Writes benchmarks/results/multimodal.json.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import torch
import transformers as hf
from PIL import Image
from torch import Tensor

from common import fastest, interleaved, median, ratio, save
from freeret.reranker import Reranker
from probes import FRAMES, Backbone, Item, Part
from probes.measure.framing import Labels
from probes.media.cache import Cache
from probes.scenes.generator import distinct_scenes

CANDIDATES, REPEATS, SIZES = 50, 3, (4, 10, 25)
FRAME = FRAMES["mcq"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}"
    "{{ p['text'] if p['type'] == 'text' else '<image>' }}{% endfor %}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
OURS, PLAIN = "freeret", "plain transformers"


def model(image: int, tower_layers: int, layers: int) -> Backbone:
    """ViT-S/16 in front of a decoder of SmolLM2's width."""
    tokenizer = Backbone.load("smollm2-135m").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokens = (image // 16) ** 2
    text = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
    )
    vision = hf.CLIPVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=tower_layers,
        num_attention_heads=6,
        image_size=image,
        patch_size=16,
    )
    config = hf.LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=tokens,
    )
    torch.manual_seed(0)
    side = {"height": image, "width": image}
    processor = hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size={"shortest_edge": image}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    return Backbone.load(hf.LlavaForConditionalGeneration(config), processor=processor)


class Ways:
    """What is compared, on one backbone and the same pairs."""

    def __init__(self, backbone: Backbone, queries: list[str], pictures: list[Image.Image]):
        self.backbone, self.queries, self.pictures = backbone, queries, pictures
        self.reranker = Reranker(backbone, FRAME)
        labels = Labels.of(backbone, FRAME)
        self.ids = [*labels.positive, *labels.negative]
        self.split = [len(labels.positive), len(labels.negative)]

    def freeret(self) -> Tensor:
        """Margins `[queries, pictures]`, from an empty cache."""
        perception = self.backbone.encoder.perception
        assert perception is not None
        perception.cache = Cache(perception.options.cache_bytes)
        candidates = [Item(images=[picture]) for picture in self.pictures]
        pairs = [(query, candidate) for query in self.queries for candidate in candidates]
        return torch.from_numpy(self.reranker.margins(pairs)).view(len(self.queries), -1)

    @torch.no_grad()
    def plain(self, size: int, queries: int | None = None) -> Tensor:
        """The same by transformers alone, `size` pairs a batch."""
        found = []
        for query in self.queries[:queries]:
            picture = Part("image", self.pictures[0])
            prompted = FRAME.apply(Item(query), Item(parts=[picture]))
            user = [
                {"type": "text", "text": piece}
                if isinstance(piece, str)
                else {"type": piece.kind, **({"text": piece.value} if piece.kind == "text" else {})}
                for piece in prompted.user
            ]
            messages = [{"role": "user", "content": user}]
            processor: Any = self.backbone.processor
            text = processor.apply_chat_template(messages, add_generation_prompt=True)
            for start in range(0, len(self.pictures), size):
                images = self.pictures[start : start + size]
                inputs = processor(
                    text=[text + prompted.prefill] * len(images),
                    images=[[image] for image in images],
                    return_tensors="pt",
                )
                inputs.pop("token_type_ids", None)
                logits = self.backbone.model(**inputs, use_cache=False, logits_to_keep=1).logits
                found.append(logits[:, -1, self.ids])
        positive, negative = torch.cat(found).double().split(self.split, -1)
        margins = positive.logsumexp(-1) - negative.logsumexp(-1)
        return margins.view(-1, len(self.pictures))


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """How many pictures each run of the tower looked at."""
    seen: list[int] = []
    tower = backbone.model.model.vision_tower
    handle = tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len((args or [kwargs["pixel_values"]])[0])),
        with_kwargs=True,
    )
    try:
        yield seen
    finally:
        handle.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description="Reranking picture candidates.")
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--image", type=int, default=112, help="pixels of a side")
    parser.add_argument("--tower-layers", type=int, default=12)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()

    scenes = distinct_scenes(Random(0), CANDIDATES)
    pictures = [scene.draw(options.image, Random(i)) for i, scene in enumerate(scenes)]
    queries = [scene.caption() for scene in scenes[: options.queries]]
    ways = Ways(model(options.image, options.tower_layers, options.layers), queries, pictures)
    size = int(fastest({str(size): lambda size=size: ways.plain(size, 1) for size in SIZES}))

    runs: dict[str, Callable[[], Tensor]] = {OURS: ways.freeret, PLAIN: lambda: ways.plain(size)}
    margins, seen = {}, {}
    for name, run in runs.items():
        with counted(ways.backbone) as pictures_seen:
            margins[name] = run()
        seen[name] = sum(pictures_seen)
    times = interleaved(runs, REPEATS)
    difference = (margins[OURS] - margins[PLAIN]).abs().max().item()
    faster = ratio(times, PLAIN, OURS)

    print(f"{len(queries)} queries × {CANDIDATES} pictures, plain batches of {size}\n")
    print(f"{'':20} {'seconds':>8} {'pictures looked at':>19}")
    for name in runs:
        print(f"{name:20} {median(times[name]):8.1f} {seen[name]:19}")
    print(f"\n{faster:.2f}× faster; largest difference of a margin {difference:.1e}")
    save(
        "multimodal",
        {
            "queries": len(queries),
            "candidates": CANDIDATES,
            "settings": vars(options),
            "plain_batch": size,
            "pictures_looked_at": seen,
            "seconds": times,
            "speed_up": faster,
            "difference_of_margin": difference,
        },
    )


if __name__ == "__main__":
    main()
