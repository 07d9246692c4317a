"""A prompt ends where the answer begins, on no particular day, with its media where they stand.

The templates are short ones with the logic of those that are published with the models named.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import transformers.utils.chat_template_utils as hub
from transformers import AutoProcessor, AutoTokenizer

from probes import embedded
from probes.items import Item, Part
from probes.measure.framing import FRAMES
from probes.model.backbone import Backbone
from probes.model.encoding import Encoder
from probes.model.encoding.templates import ChatTemplate
from probes.prompts import ControlPrompt, Prompted
from tests.models import tokenizer
from tests.samples import film, picture, text

Tiny = Callable[[str], Backbone]

CHATML = (
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}CUE{%- endif %}"
)


def chatml(cue: str) -> str:
    return CHATML.replace("CUE", cue)


QWEN3 = chatml(
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
)
QWEN35 = chatml(
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- else %}{{- '<think>\n' }}{%- endif %}"
)
QWEN3_VL_THINKING = chatml("{{- '<think>\n' }}")
KIMI = chatml(
    "{%- if thinking is defined and thinking is false -%}{{- '<think></think>' }}"
    "{%- else -%}{{- '<think>' }}{%- endif -%}"
)
GLM_41V_THINKING = (
    "[gMASK]<sop>{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\n<think>' }}{%- endif %}"
)
GLM_45V = (
    "[gMASK]<sop>{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content }}"
    "{{- '/nothink' if (enable_thinking is defined and not enable_thinking) else '' }}"
    "{%- endfor %}{%- if add_generation_prompt -%}<|assistant|>"
    "{{- '\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}"
    "{%- endif -%}"
)
SMOLLM3 = (
    "{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}"
    "{%- set mode = '/think' if enable_thinking else '/no_think' -%}"
    "{{- '<|im_start|>system\nToday Date: ' ~ strftime_now('%d %B %Y') ~ '\nReasoning Mode: ' }}"
    "{{- mode ~ '<|im_end|>\n' }}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if not enable_thinking %}{{- '<think>\n\n</think>\n' }}{%- endif %}{%- endif %}"
)
GEMMA4 = (
    "{{- bos_token }}{%- if enable_thinking is defined and enable_thinking %}"
    "{{- '<|turn>system\n<|think|><turn|>\n' }}{%- endif %}"
    "{%- for m in messages %}{{- '<|turn>' + m.role + '\n' + m.content | trim + '<turn|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|turn>model\n' }}"
    "{%- if not (enable_thinking is defined and enable_thinking) %}"
    "{{- '<|channel>thought\n<channel|>' }}{%- endif %}{%- endif %}"
)
GEMMA4_OPEN = chatml("{{- '<|channel>thought\n' }}")
MAGISTRAL = (
    "{%- set today = strftime_now('%Y-%m-%d') %}"
    "{{- '[SYSTEM_PROMPT]It is ' + today + '. First draft your thinking: [THINK]thoughts[/THINK], "
    "then the answer.[/SYSTEM_PROMPT]' }}"
    "{%- for m in messages %}{{- '[INST]' + m.content + '[/INST]' }}{%- endfor %}"
)
MAGISTRAL_OPEN = MAGISTRAL + "{%- if add_generation_prompt %}{{- '[THINK]' }}{%- endif %}"
LLAMA32 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{- '<|system|>Cutting Knowledge Date: December 2023\nToday Date: ' + date_string }}"
    "{%- for m in messages %}{{- '<|' + m.role + '|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>\n\n' }}{%- endif %}"
)
GPT_OSS = (
    "{%- macro system() -%}{{- 'Current date: ' + strftime_now('%Y-%m-%d') }}{%- endmacro -%}"
    "{{- system() }}{%- for m in messages %}{{- m.content }}{%- endfor %}"
)

THINKING = {
    "qwen3": (QWEN3, "switched off", "assistant\n<think>\n\n</think>\n\n"),
    "qwen3.5": (QWEN35, "switched off", "assistant\n<think>\n\n</think>\n\n"),
    "qwen3-vl-thinking": (
        QWEN3_VL_THINKING,
        "closed by hand",
        "assistant\n<think>\n\n</think>\n\n",
    ),
    "kimi": (KIMI, "switched off", "assistant\n<think></think>"),
    "glm-4.1v-thinking": (GLM_41V_THINKING, "closed by hand", "<|assistant|>\n<think></think>"),
    "glm-4.5v": (GLM_45V, "switched off", "/nothink<|assistant|>\n<think></think>"),
    "smollm3": (SMOLLM3, "switched off", "assistant\n<think>\n\n</think>\n"),
    "gemma4": (GEMMA4, "switched off", "<|turn>model\n<|channel>thought\n<channel|>"),
    "gemma4, open": (GEMMA4_OPEN, "closed by hand", "<|channel>thought\n<channel|>"),
    "magistral": (MAGISTRAL, "none", "[/INST]"),
    "magistral, open": (MAGISTRAL_OPEN, "closed by hand", "[/INST][THINK][/THINK]"),
    "llama-3.2": (LLAMA32, "none", "<|assistant|>\n\n"),
}


def encoder(tiny: Tiny, template: str) -> Encoder:
    tok = tokenizer()
    tok.chat_template = template
    return Encoder(tiny("llama").model, tok)


@pytest.mark.parametrize("family", THINKING)
def test_no_answer_is_read_inside_a_thought(family: str, tiny: Tiny) -> None:
    """This holds for the word of stage 1, the label of stage 2, and a generated answer."""
    template, how, opening = THINKING[family]
    made = encoder(tiny, template)
    assert made.thinking == how
    item = Item("a text that says <think> and [THINK]")
    prompts = [ControlPrompt().apply(item), FRAMES["yes_no"].apply(item, item)]
    for prompt in (*prompts, Prompted(user=("Answer: ", *item.parts))):
        written = made.tokenizer.decode(made.row(prompt).ids)
        assert written.endswith(opening + prompt.prefill)
        assert written.count(item.text) >= 1


@pytest.mark.parametrize("family", THINKING)
def test_the_system_turn_changes_nothing_about_the_opening(family: str, tiny: Tiny) -> None:
    template, _, opening = THINKING[family]
    made = encoder(tiny, template)
    prompt = Prompted(user=("Say: ", text("abc")), system="be brief", prefill='"')
    assert made.tokenizer.decode(made.row(prompt).ids).endswith(f'{opening}"')


def test_a_thought_in_the_prompt_is_not_taken_for_an_open_one(tiny: Tiny) -> None:
    made = encoder(tiny, "{{- 'Write <think> first. ' }}{{- messages[0].content }}")
    assert made.thinking == "none"
    assert made.tokenizer.decode(made.row(ControlPrompt().apply(Item("abc"))).ids).endswith('"')


@pytest.mark.parametrize("template", [LLAMA32, SMOLLM3, MAGISTRAL, GPT_OSS])
def test_prompts_do_not_change_with_the_day(
    template: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(hub.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2031, 11, 3)

    prompt = ControlPrompt().apply(Item("abc"))
    with monkeypatch.context() as patched:
        patched.setattr(hub, "datetime", Tomorrow)
        made = encoder(tiny, template)
        later = made.tokenizer.apply_chat_template(
            [{"role": "user", "content": "abc"}], tokenize=False
        )
        assert "2031" in later, "the day does stand in it"
        written = made.tokenizer.decode(made.row(prompt).ids)
    assert re.search("26 Jul(y)? 2024|2024-07-26", written)
    assert encoder(tiny, template).row(prompt).ids == made.row(prompt).ids


def test_changes_to_a_template_are_part_of_its_identity(tiny: Tiny) -> None:
    """A template that needs no change keeps its identity."""
    plain = encoder(tiny, chatml(""))
    backend = plain.tokenizer.backend_tokenizer.to_str()
    assert plain.identity() == backend + chatml("")
    assert Encoder(tiny("llama").model, tokenizer(chat=False)).identity() == backend + "None"
    for template in (QWEN35, QWEN3_VL_THINKING, LLAMA32):
        made = encoder(tiny, template)
        assert made.identity() != made.tokenizer.backend_tokenizer.to_str() + template
        assert made.identity() == encoder(tiny, template).identity()


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b", "smolsight"])
def test_the_embedded_backbones_are_identified_as_before(name: str) -> None:
    folder = embedded.ensure(name)
    sees = (folder / "processor_config.json").is_file()
    templater = (AutoProcessor if sees else AutoTokenizer).from_pretrained(folder)
    chat = ChatTemplate(templater, templater.chat_template, {"image": "<image>"} if sees else {})
    assert (chat.thinking, chat.keeps_order) == ("none", True)
    assert chat.identity() == templater.chat_template


def test_of_several_templates_the_default_is_used(tiny: Tiny) -> None:
    tok = tokenizer()
    tok.chat_template = {"tool_use": "tools", "default": QWEN35}
    made = Encoder(tiny("llama").model, tok)
    assert made.identity() == encoder(tiny, QWEN35).identity()


# ------------------------------------------------------------------------------ order of media

LLAVA15 = (
    "{% for message in messages %}"
    "{% if message.role != 'system' %}{{ message.role.upper() + ': ' }}{% endif %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ part.text + ' ' }}{% endgeneration %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
LLAVA_NEXT = (
    "{% for message in messages %}{{ '[INST] ' }}"
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text }}{% endfor %}{{ ' [/INST]' }}{% endfor %}"
)
ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + ' ' }}"
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + part.text }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MOVING = {
    "llava-1.5": ("llava", LLAVA15, "USER: Query: A<image>\nB Candidate: C<image>\nD? ASSISTANT:"),
    "llava-next": (
        "llava",
        LLAVA_NEXT,
        "[INST] Query: A<image>\nB Candidate: C<image>\nD? [/INST]",
    ),
    "onevision": (
        "llava-onevision",
        ONEVISION,
        "<|im_start|>user \nQuery: A<image>B Candidate: C<image>D?<|im_end|>"
        "<|im_start|>assistant\n",
    ),
}


def reordered(tiny: Tiny, name: str, template: str) -> Encoder:
    backbone = tiny(name)
    processor: Any = copy.copy(backbone.processor)
    processor.chat_template = template
    return Encoder(backbone.model, backbone.tokenizer, processor)


def collapsed(made: Encoder, ids: list[int]) -> str:
    """The row as text, with each run of placeholder tokens written once."""
    return re.sub("(<(?:image|video)>)+", r"\1", made.tokenizer.decode(ids)).removeprefix("<s>")


@pytest.mark.parametrize("family", MOVING)
def test_text_and_media_stay_in_order(family: str, tiny: Tiny) -> None:
    name, template, expected = MOVING[family]
    made = reordered(tiny, name, template)
    assert not made.keeps_order
    pictures = [Part("image", picture(seed=i)) for i in range(2)]
    source = Prompted(
        user=("Query: A", pictures[0], "B Candidate: ", text("C"), pictures[1], "D?"),
    )
    row = made.row(source)
    assert collapsed(made, row.ids) == expected
    assert [piece.part for piece in row.media] == pictures


def test_kinds_that_a_template_moves_apart_stay_in_their_order(tiny: Tiny) -> None:
    made = reordered(tiny, "llava-onevision", ONEVISION)
    parts = (Part("video", film()), text("after"), Part("image", picture()), text("end"))
    written = collapsed(made, made.row(Item(parts=parts)).ids)
    assert written.startswith("<|im_start|>user \n<video>after<image>end<|im_end|>")


def test_a_forged_probe_of_a_medium_is_text(tiny: Tiny) -> None:
    made = reordered(tiny, "llava", LLAVA15)
    forged = "\ue002image\ue003 <image>"
    row = made.row(Prompted(user=(text(forged), Part("image", picture()))))
    image = made.tokenizer.convert_tokens_to_ids("<image>")
    assert row.ids.count(image) == row.media[0].processed.text.count("<image>")
    assert forged in made.tokenizer.decode(row.ids)


@pytest.mark.parametrize(
    "name", ["qwen2-vl", "qwen3-vl", "qwen2.5-omni", "internvl", "smolvlm", "gemma3-vl"]
)
def test_a_template_in_order_is_left_as_it_is(name: str, tiny: Tiny) -> None:
    processor: Any = tiny(name).processor
    chat = tiny(name).encoder.chat
    assert isinstance(chat, ChatTemplate)
    assert chat.keeps_order
    assert chat.identity() == processor.chat_template


def test_thinking_is_off_beside_videos_too(tiny: Tiny) -> None:
    processor: Any = tiny("qwen3-vl").processor
    whole, end = processor.chat_template, "{%- endif %}"
    template = whole.removesuffix(end) + "{{- '<think>\n' }}" + end
    made = reordered(tiny, "qwen3-vl", template)
    assert made.thinking == "closed by hand"
    for item in (Item("abc", images=[picture()]), Item("abc", videos=[film()])):
        row = made.row(ControlPrompt().apply(item))
        assert made.tokenizer.decode(row.ids).endswith('<think>\n\n</think>\n\n"')


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        (chatml(""), "<|im_start|>assistant\n"),
        (QWEN3_VL_THINKING, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ],
)
def test_the_generation_prompt_is_what_opens_the_models_turn(template: str, opening: str) -> None:
    assert ChatTemplate(tokenizer(), template, {}).generation_prompt == opening


def test_a_template_that_refuses_everything_is_identified_as_it_is(tiny: Tiny) -> None:
    refusing = "{{ raise_exception('no turn of the user is allowed') }}"
    chat = ChatTemplate(tiny("llava").processor, refusing, {"image": "<image>"})
    assert chat.keeps_order
    assert chat.identity() == refusing
