"""smolsight: a frozen language model, a vision tower, and a training that can be interrupted."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
)

from probes import Backbone, Item, record
from probes.embedded import ensure
from probes.embedded.smolsight import CONCEPTS, WEIGHTS, WEIGHTS_SHA256
from probes.embedded.smolsight.model import IMAGE_TOKEN, build, pixels, tower_of, trained
from probes.embedded.smolsight.tower import IMAGE_SIZE, TOKENS
from probes.embedded.smolsight.trunk import CLASSES
from probes.errors import FetchError
from probes.scenes.generator import HELD_OUT, SEEN, SHAPES, Scene, Thing, random_clip, random_scene
from smolsight import naming
from smolsight import train as training
from smolsight.naming import name_batch
from smolsight.questions import ask, content_words, facts
from smolsight.saying import pack, say_batch
from smolsight.settings import Settings
from smolsight.train import TrainingRun, train

seeds = st.integers(0, 2**32)
SHORT = Settings(name_batches=2, name_scenes=4, say_batches=2, say_scenes=3)


@pytest.fixture(scope="module")
def tiny_language(tmp_path_factory) -> Path:
    """A random language model of two layers with SmolLM2's own tokenizer."""
    folder = tmp_path_factory.mktemp("language")
    for file in ensure("smollm2-135m").iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_language):
    return build(tiny_language, trunk=None, weights=None)


def prompts(processor, *contents):
    chats = [[{"role": "user", "content": content}] for content in contents]
    return [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]


def test_the_language_model_is_unchanged(tiny, tiny_language):
    model, processor = tiny
    language = AutoModelForCausalLM.from_pretrained(tiny_language)
    inputs = processor(text=["a red circle"], return_tensors="pt")
    assert torch.equal(model(**inputs).logits, language(**inputs).logits)
    for name, weight in language.model.state_dict().items():
        assert torch.equal(weight, model.model.language_model.state_dict()[name])


def test_a_picture_is_sixteen_tokens_and_changes_the_answer(tiny):
    model, processor = tiny
    content = [{"type": "image"}, {"type": "text", "text": "\nWhat is it?"}]
    texts = prompts(processor, content, content)
    pictures = [random_scene(Random(seed)).draw() for seed in range(2)]
    inputs = processor(text=texts, images=pictures, return_tensors="pt", padding=True)
    assert (inputs["input_ids"] == processor.image_token_id).sum(1).tolist() == [TOKENS] * 2
    logits = model(**inputs).logits[:, -1]
    assert not torch.allclose(logits[0], logits[1])


def test_only_the_picture_token_is_renamed(tiny, tiny_language):
    _, processor = tiny
    tokenizer = processor.tokenizer
    plain = AutoProcessor.from_pretrained(tiny_language)
    assert len(tokenizer) == len(plain)
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == processor.image_token_id
    text = "12 small red circles, naïve — <|im_end|>\n\tend"
    assert tokenizer(text).input_ids == plain(text).input_ids
    renamed = tokenizer.get_vocab().items() - plain.get_vocab().items()
    assert renamed == {(IMAGE_TOKEN, processor.image_token_id)}
    assert IMAGE_TOKEN in tokenizer.all_special_tokens


def test_a_composed_folder_needs_no_remote_code(tiny, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    its_processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(model)
    content = [{"type": "text", "text": "Look: "}, {"type": "image"}]
    picture = random_scene(Random(0)).draw(100)
    outputs = [
        m(**p(text=prompts(p, content), images=[picture], return_tensors="pt")).logits
        for m, p in ((model, processor), (again, its_processor))
    ]
    assert torch.equal(*outputs)


def test_training_pixels_equal_those_of_the_processor(tiny):
    _, processor = tiny
    picture = random_scene(Random(0)).draw(IMAGE_SIZE)
    theirs = processor(text=[IMAGE_TOKEN], images=[picture], return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels([picture]), theirs, atol=1e-6)


@pytest.mark.parametrize("of", [random_scene, random_clip])
def test_a_packed_question_has_the_states_of_its_plain_prompt(tiny, of):
    model, processor = tiny
    shown = [of(Random(seed)) for seed in range(2)]
    pictures = [
        s.frames(2, IMAGE_SIZE) if of is random_clip else [s.draw(IMAGE_SIZE)] for s in shown
    ]
    packed = pack([(s, p, Random(7)) for s, p in zip(shown, pictures, strict=True)], processor)
    with torch.no_grad():
        together = model.model(
            input_ids=packed.ids,
            pixel_values=packed.pictures,
            attention_mask=packed.sees,
            position_ids=packed.positions,
        ).last_hidden_state[0, packed.where]
    for i, media in enumerate(pictures):
        before, branches = ask(shown[i], Random(7))
        for branch in branches:
            texts = prompts(processor, before + IMAGE_TOKEN * len(media) + branch.user)
            inputs = processor(text=[texts[0] + branch.prefill], images=media, return_tensors="pt")
            with torch.no_grad():
                alone = model.model(**inputs).last_hidden_state[0, -1]
            assert (together - alone).abs().amax(-1).min() < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_the_packed_targets_are_the_answers(tiny, seed):
    _, processor = tiny
    scene = random_scene(Random(seed))
    packed = pack([(scene, [scene.draw(IMAGE_SIZE)], Random(seed))], processor)
    wanted = []
    for branch in ask(scene, Random(seed))[1]:
        ids = [processor.tokenizer(answer).input_ids for answer in branch.answers]
        firsts = [answer[0] for answer in ids]
        wanted += firsts if len(ids) > 1 else [*ids[0], processor.tokenizer.eos_token_id]
    assert packed.answers.tolist() == wanted
    assert len(packed.where) == len(packed.weights) == len(wanted)


def test_a_held_out_combination_is_not_taught_to_be_impossible(tiny):
    _, processor = tiny
    colour, shape = HELD_OUT[0]
    seen = next(s for c, s in SEEN if c == colour)
    scene = Scene((Thing(colour, seen),))
    packed = pack([(scene, [scene.draw(IMAGE_SIZE)], Random(0))], processor)
    here, there = (processor.tokenizer(f" {word}").input_ids[0] for word in (seen, shape))
    spared = {word for _, word in packed.spared.tolist()}
    assert there in spared
    assert here not in spared
    assert {i for i, _ in packed.spared.tolist()} == set(range(len(packed.answers)))

    _, shapes, *_ = naming.VOCABULARY
    named = naming.names([scene], [0.5])
    rows = [torch.eye(40)[i * 10 : i * 10 + len(v)] for i, v in enumerate(naming.VOCABULARY)]
    tokens = torch.zeros(1, TOKENS, 40, requires_grad=True)
    own = torch.zeros(1, TOKENS, 18, requires_grad=True)
    loss = naming.name_loss(own, tokens, rows, torch.nn.Identity(), named)
    for slopes, first in zip(torch.autograd.grad(loss, (tokens, own)), (10, 8), strict=True):
        slope = slopes[0].sum(0)[first : first + len(SHAPES)]
        assert slope[shapes.index(shape)] == 0
        assert (slope != 0).sum() == len(SHAPES) - 2


@given(seeds)
def test_every_question_has_one_right_answer(seed):
    rng = Random(seed)
    for shown in (random_scene(rng), random_clip(rng)):
        known = set(facts(shown))
        assert max(Counter(question for question, _ in known).values()) == 1
        words = set(" ".join(shown.captions()).replace(",", "").split())
        attributes = [a for q, a in known if q.startswith(("What colour", "What size"))]
        assert set(attributes) <= words | {"small", "large"}


def test_a_one_word_caption_is_a_content_word():
    assert content_words("three large red circles on a white background") == (
        "three", "large", "red", "circles", "white",
    )  # fmt: skip


def test_batches_depend_on_seed_and_number_alone(tiny):
    _, processor = tiny
    first, again, next_ = (name_batch(SHORT, n) for n in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].where, again[1].where)
    assert torch.equal(first[1].words, again[1].words)
    assert not torch.equal(first[0], next_[0])
    packs = [say_batch(SHORT, 4, processor) for _ in range(2)]
    assert torch.equal(packs[0].ids, packs[1].ids)
    assert torch.equal(packs[0].pictures, packs[1].pictures)


def test_the_tokens_that_show_a_thing_name_it():
    outer, inner = Thing(*SEEN[0], "large"), Thing(*SEEN[-1], "small")
    named = naming.names([Scene((inner, outer), "inside"), Scene((outer,))], [0.1, 0.2])
    grid = named.where.reshape(2, 3, 4, 4)
    assert grid[0, 0].sum() == grid[0, 0, 1:3, 1:3].sum() > 0  # the inner thing: in the middle
    assert not (grid[0, 0] & grid[0, 1]).any()
    assert grid[0, 1].sum() > 6  # the outer is seen around it
    assert not named.where[0, 2].any()
    words = [[words.index(w) for w, words in zip((t.colour, t.shape, t.size), naming.VOCABULARY,
             strict=False)] for t in (inner, outer)]  # fmt: skip
    assert named.words[0].tolist() == [*words, [naming.IGNORED] * 3]
    assert named.words[1, 0].tolist() == words[1]


@given(seeds)
def test_every_thing_has_tokens_that_show_no_other_thing(seed):
    scene = random_scene(Random(seed))
    named = naming.names([scene], [0.5])
    assert named.where[0].sum(0).max() <= 1
    assert named.where[0, : len(scene.things)].any(1).all()


def test_an_interrupted_training_ends_with_the_same_weights(tiny_language, tmp_path, monkeypatch):
    whole = train(TrainingRun(tmp_path / "whole", SHORT), tiny_language)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "say_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(TrainingRun(tmp_path / "parts", SHORT), tiny_language)
    resumed = train(TrainingRun(tmp_path / "parts", SHORT), tiny_language)
    for name, weight in trained(whole).items():
        assert torch.equal(weight, trained(resumed)[name]), name
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "parts")]
    assert json.loads(logs[0].splitlines()[0]) == json.loads(logs[1].splitlines()[0])


def test_training_changes_the_scene_tower_only(tiny_language, tmp_path):
    torch.manual_seed(SHORT.seed)
    before = build(tiny_language, trunk=None, weights=None)[0].state_dict()
    after = train(TrainingRun(tmp_path, SHORT), tiny_language).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {name.removeprefix("model.vision_tower.").split(".")[0] for name in changed}
    assert parts == {"scenes", "is_scene"}


def test_the_alias_is_smollm2_with_the_shipped_weights():
    folder = ensure("smolsight")
    origin = json.loads((folder / "source.json").read_text())
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == WEIGHTS_SHA256 == origin["sha256"]
    assert WEIGHTS.stat().st_size < 12e6
    whole = Backbone.load("smolsight").model.state_dict()
    for name, weight in load_file(WEIGHTS).items():
        assert torch.equal(weight.float(), whole[f"model.vision_tower.{name}"])
    for name, weight in load_file(ensure("smollm2-135m") / "model.safetensors").items():
        assert torch.equal(weight, whole[name.replace("model.", "model.language_model.", 1)])


def test_every_concept_has_a_name():
    names = json.loads(CONCEPTS.read_text())
    assert len(names) == CLASSES + len(load_file(WEIGHTS)["concepts.others.bias"])
    assert len(set(names[CLASSES:])) == len(names) - CLASSES
    assert all(name.strip() == name != "" for name in names)


def test_scenes_look_like_scenes_and_a_fractal_does_not():
    tower = tower_of(Backbone.load("smolsight").model)
    rng = Random(0)
    pictures = [random_scene(rng, HELD_OUT).draw(IMAGE_SIZE, rng) for _ in range(4)]
    size = (IMAGE_SIZE, IMAGE_SIZE)
    fractal = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 60).convert("RGB")
    with torch.no_grad():
        maps = tower.concepts.trunk(pixels([*pictures, fractal]))
        shares = tower.is_scene(maps.mean((2, 3))).sigmoid()[:, 0].tolist()
    assert min(shares[:-1]) > 0.9
    assert shares[-1] < 0.1


def test_other_weights_are_refused(tiny_language, tmp_path):
    other = tmp_path / "weights.safetensors"
    other.write_bytes(WEIGHTS.read_bytes()[:-1] + b"x")
    with pytest.raises(FetchError, match="not the file its card describes"):
        build(tiny_language, None, other)


def test_the_generated_caption_names_the_colour():
    backbone = Backbone.load("smolsight")
    things = [Thing("red", "circle"), Thing("blue", "square"), Thing("yellow", "cross")]
    for thing in things:
        picture = Scene((thing,), None, "black").draw(rng=Random(0))
        caption = backbone.generate(Item(images=[picture]), max_new_tokens=16)
        assert thing.colour in caption


def test_half_precision_changes_the_state_little():
    picture = Scene((Thing("red", "circle"),), None, "black").draw(rng=Random(0))
    states = [
        record(b, b.encode([Item(images=[picture])]), ["attn[-1]"])["attn[-1]"].float()
        for b in (Backbone.load("smolsight", dtype=dtype) for dtype in ("float32", "bfloat16"))
    ]
    assert torch.nn.functional.cosine_similarity(*states).item() > 0.99


def test_a_run_is_not_resumed_with_other_settings(tiny_language, tmp_path):
    train(TrainingRun(tmp_path, SHORT), tiny_language)
    other = Settings(seed=1, name_batches=2, name_scenes=4, say_batches=2, say_scenes=3)
    with pytest.raises(ValueError, match="was made with"):
        train(TrainingRun(tmp_path, other), tiny_language)
