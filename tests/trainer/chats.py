"""Tokenizers of the kinds that people bring, learnt on the spot, and chat templates in their styles."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SENTENCES = (
    "the cat sat on the hill under the sun and the moon",
    "please tell me a story of the dog and the fox!",
    "no, the tree ran in the night. yes, it sang to me",
    "user: tell me\nassistant: the answer is 42\n\nsystem advice question found",
)
# What steers, in one tokenizer or another.
SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|endoftext|>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
)
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def byte_level(*, bos: bool = False) -> Any:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have it; with `bos` it begins every text."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator(SENTENCES, learner)
    return finish(plain, bos="<bos>" if bos else None, eos="<eos>", pad="<pad>", begins=bos)


def sentence_piece(*, bos: bool = True, rstrip: bool = False) -> Any:
    """BPE over whole texts with a mark for a space, as Llama 2, Mistral, Gemma and Phi-3 have it.

    It puts a space before every text, knows its control tokens as words of its vocabulary, and bytes for
    what it does not know. With `rstrip` the control tokens swallow the blanks behind them, as Phi-3's do.
    """
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    learnt.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    vocabulary = {name: n for n, name in enumerate(["<unk>", "<s>", "</s>", *BYTES])}
    words = sorted(learnt.get_vocab(), key=learnt.get_vocab().__getitem__)
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    merges = [tuple(each) for each in json.loads(learnt.to_str())["model"]["merges"]]
    plain = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    plain.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    plain.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return finish(
        plain, bos="<s>", eos="</s>", pad=None, begins=bos, unk_token="<unk>", rstrip=rstrip
    )


def finish(
    plain: Any,
    *,
    bos: str | None,
    eos: str,
    pad: str | None,
    begins: bool,
    rstrip: bool = False,
    **names: str,
) -> Any:
    """The tokenizer with its control tokens, and a BOS at the start of every text where it `begins` one."""
    from transformers import PreTrainedTokenizerFast

    plain.add_special_tokens(
        [AddedToken(each, rstrip=rstrip, normalized=False) for each in SPECIAL]
    )
    plain.add_tokens(
        [AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)]
    )
    if begins and bos:
        plain.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, plain.token_to_id(bos))]
        )
    given = {"bos_token": bos, "pad_token": pad, **names}
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token=eos,
        **{name: value for name, value in given.items() if value is not None},
    )


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (m['content'] | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}{{ raise_exception('unknown role') }}{% endif %}"
    "{% endfor %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (m['content'] | trim) + ' [/INST]' }}{% else %}"
    "{{ ' ' + (m['content'] | trim) + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% else %}\n"
    "{{ '<|assistant|>\n' + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
# The last answer is written with a thought before it, an empty one if need be; earlier ones without.
QWEN_3 = (
    "{%- set ns = namespace(last=0) %}\n"
    "{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}\n"
    "{%- for m in messages %}\n"
    "    {%- if m.role == 'assistant' %}\n"
    "        {%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}\n"
    "        {%- set thought = '' %}\n"
    "        {%- if '</think>' in m.content %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}{% endif %}\n"
    "        {{- '<|im_start|>assistant\\n' }}\n"
    "        {%- if loop.index0 > ns.last %}\n"
    "            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}\n"
    "        {%- endif %}\n"
    "        {{- said + '<|im_end|>\\n' }}\n"
    "    {%- else %}\n"
    "        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
)
# Tokens that steer stand before an answer, which the policy writes; only a last answer ends the turn.
HARMONY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}{% if m['role'] == 'assistant' %}"
    "{{ '<|start_header_id|>final<|end_header_id|>' + m['content'] }}"
    "{{ '<|eot_id|>' if loop.last else '<|end|>' }}{% else %}"
    "{{ '<|end_header_id|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
# Turns that end in plain text, and no token; a line end comes first.
ALPACA = (
    "\n{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
# It opens an answer with a thought, and leaves the thought out of the finished one.
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + m['content'].split('</think>')[-1] + eos_token }}{% else %}"
    "{{ '<|user|>' + m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
# What an assistant writes is marked, for programs that learn from that alone: with the end, or without.
GENERATION = (
    "{% for m in messages %}\n<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>\n' }}"
    "{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GENERATION_WITHIN = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' }}\n"
    "    {%- if m['role'] == 'assistant' -%}\n"
    "    {%- generation -%} {{- m['content'] }}{%- endgeneration -%}\n"
    "    {%- else %}{{- m['content'] }}{% endif %}{{- '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A macro that calls itself, tools, and calls of them.
TOOLS = (
    "{%- macro show(value) -%}{%- if value is mapping -%}{%- for key in value -%}{{ key }}="
    "{{ show(value[key]) }};{%- endfor -%}{%- else -%}{{ value }}{%- endif -%}{%- endmacro -%}\n"
    "{%- set seen = tools | default([]) %}"
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ show(tool) }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{%- for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | default('') }}"
    "{%- for call in m['tool_calls'] | default([]) %}{{ call['function'] | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Chat(NamedTuple):
    """A tokenizer, and a template that people use with its kind."""

    tokenizer: Any
    template: str | dict[str, str] | None
    end: str
    bos: str | None = None  # which every text begins with


@cache
def chats() -> dict[str, Chat]:
    """Tokenizers with templates, by name."""
    bytes_, begins = byte_level(), byte_level(bos=True)
    pieces, silent, greedy = (
        sentence_piece(),
        sentence_piece(bos=False),
        sentence_piece(rstrip=True),
    )
    return {
        "chatml": Chat(bytes_, CHATML, "<|im_end|>"),
        "llama-3": Chat(begins, LLAMA_3, "<|eot_id|>", "<bos>"),
        "gemma": Chat(pieces, GEMMA, "<end_of_turn>", "<s>"),
        "phi-3": Chat(greedy, PHI_3, "<|end|>", "<s>"),
        "mistral": Chat(pieces, MISTRAL, "</s>", "<s>"),
        "llama-2": Chat(pieces, LLAMA_2, "</s>", "<s>"),
        "zephyr": Chat(pieces, ZEPHYR, "</s>", "<s>"),
        "qwen-3": Chat(bytes_, QWEN_3, "<|im_end|>"),
        # It knows no open answer: a policy writes the turn's head itself.
        "headless": Chat(bytes_, CHATML.partition("{% if add")[0], "<|im_end|>"),
        "harmony": Chat(bytes_, HARMONY, "<|eot_id|>"),
        "alpaca": Chat(bytes_, ALPACA, "<eos>"),
        "tools": Chat(bytes_, TOOLS, "<|im_end|>"),
        "generation": Chat(bytes_, GENERATION, "<|im_end|>"),
        "generation-within": Chat(bytes_, GENERATION_WITHIN, "<|im_end|>"),
        "chatml-pieces": Chat(silent, CHATML, "<|im_end|>"),
        "named": Chat(bytes_, {"default": CHATML, "tool_use": TOOLS}, "<|im_end|>"),
        "plain": Chat(bytes_, None, "<eos>"),
        "plain-bos": Chat(begins, None, "<eos>", "<bos>"),
        "plain-pieces": Chat(pieces, None, "</s>", "<s>"),
        "plain-silent": Chat(silent, None, "</s>"),
    }


def save_chat(name: str, folder: Path) -> Path:
    """The tokenizer and its template, as somebody would have left them."""
    chat = chats()[name]
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.chat_template = chat.template
    tokenizer.save_pretrained(folder)
    return folder
