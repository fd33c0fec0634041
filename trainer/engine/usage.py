"""How other programs use a saved model: a section of its card, with a snippet that runs as it stands.

What the snippet says is tried on the tokenizer that is saved: whether plain `apply_chat_template` gives a
conversation the tokens that training read, the end token last.
"""

from trainer.data.examples import Messages
from trainer.engine.protocols import Tokenizer
from trainer.engine.templates import shape_of
from trainer.engine.tokens import Encoder
from trainer.errors import TrainerError

TRIALS: tuple[tuple[Messages, str], ...] = (
    ([{"role": "user", "content": "Question?"}], "Answer."),
    ([{"role": "user", "content": "one\n\ntwo "}], "First line.\n\n- second"),
    (
        [
            {"role": "user", "content": "Question?"},
            {"role": "assistant", "content": "Answer."},
            {"role": "user", "content": "And?"},
        ],
        "Another answer",
    ),
)

LOAD = """\
import torch
from transformers import {kind}, AutoTokenizer

path = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(path, padding_side="{side}")
model = {kind}.from_pretrained(path, dtype=torch.float32).eval()
"""

CONVERSATIONS = """\
conversations = [
    [
        {"role": "user", "content": "Tell me a story."},
        {"role": "assistant", "content": "There was a fox in the wood."},
    ],
    [
        {"role": "user", "content": "Tell me a story."},
        {"role": "assistant", "content": "No."},
    ],
]
"""

ENCODE = """\
batch = tokenizer.apply_chat_template(
    conversations, padding=True, return_tensors="pt", sanitize_control_tokens=True
)
"""

ENCODE_APART = """\
rows = [
    tokenizer.apply_chat_template(
        conversation[:-1], add_generation_prompt=True, sanitize_control_tokens=True
    )["input_ids"]
    + tokenizer(
        conversation[-1]["content"], add_special_tokens=False, split_special_tokens=True
    )["input_ids"]
    + [{end}]  # {name}, the end of a turn
    for conversation in conversations
]
batch = tokenizer.pad({{"input_ids": rows}}, return_tensors="pt")
"""

SCORE = """\
with torch.no_grad():
    rewards = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).logits[:, 0] - model.config.reward_mean
"""

ANSWER = """\
conversation = [{"role": "user", "content": "Tell me a story."}]
prompt = tokenizer.apply_chat_template(
    conversation, add_generation_prompt=True, return_tensors="pt", sanitize_control_tokens=True
)
written = model.generate(
    prompt["input_ids"],
    attention_mask=prompt["attention_mask"],
    max_new_tokens=64,
    do_sample=True,
    top_k=0,  # transformers would cut off all but 50 tokens
)
answer = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
"""

SANITIZED = (
    "`sanitize_control_tokens` (transformers 5.23 and later) leaves `{end}` and the like text where "
    "somebody wrote them; programs without it, and those that render a text first and tokenise it then "
    "(TRL and vLLM among them), read a control token there."
)


def plain_is_right(tokenizer: Tokenizer) -> bool:
    """Whether plain `apply_chat_template` gives a conversation the tokens that a reward model reads."""
    encoder = Encoder(tokenizer, 1 << 20, reading=True)
    tried = 0
    for messages, text in TRIALS:
        try:
            prompt, response = encoder.pair(messages, text)
            whole = tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": text}],
                add_generation_prompt=False,
                tokenize=True,
                return_dict=True,
            )
        except TrainerError:  # a template that takes no second turn
            continue
        tried += 1
        if prompt + response != list(whole["input_ids"]) or response[-1] != encoder.end:
            return False
    return tried > 0


def describe_scoring(tokenizer: Tokenizer) -> str:
    """The section of a reward model's card that says how to score with it."""
    shape = shape_of(tokenizer)
    end = tokenizer.eos_token if shape is None else shape.end_text
    number = tokenizer.eos_token_id if shape is None else shape.end
    right = plain_is_right(tokenizer)
    load = LOAD.format(kind="AutoModelForSequenceClassification", side="right")
    encode = ENCODE if right else ENCODE_APART.format(end=number, name=end)
    lines = [
        "## To score",
        "",
        "```python",
        load,
        CONVERSATIONS + encode + SCORE.rstrip("\n"),
        "```",
        "",
        f"The reward is read at the last token: `{end}` (id {number}), which ends the answer's turn. "
        "Padding is on the right, where every family's positions stay what they were. Without `- "
        "reward_mean` all rewards are higher by the same number.",
        "",
    ]
    if right:
        lines += [
            "- The chat template that is saved here ends a conversation with that token and nothing "
            "behind it, and writes whatever BOS there is: tokenise its text with "
            "`add_special_tokens=False`.",
            "- TRL (1.16) reads rows of messages so, and appends the tokenizer's end token to rows of "
            "plain text alone. vLLM reads `messages` so at `/classify` and `/pooling`: send "
            "`use_activation: false`, or rewards come out squashed, and no strings as `input`, to which "
            "it adds a BOS.",
        ]
    else:
        lines += [
            "- **Not by the chat template alone.** It does not write an answer as it is, or does not end "
            f"it with `{end}`, and could not be mended: programs that score "
            "`apply_chat_template(prompt + answer)`, TRL and vLLM among them, read other tokens than "
            "this model was trained on. Give them the token ids of the snippet.",
        ]
    return "\n".join([*lines, "- " + SANITIZED.format(end=end)])


def describe_answering(tokenizer: Tokenizer) -> str:
    """The section of a policy's card that says how to let it answer."""
    shape = shape_of(tokenizer)
    end = tokenizer.eos_token if shape is None else shape.end_text
    return "\n".join(
        [
            "## To let it answer",
            "",
            "```python",
            LOAD.format(kind="AutoModelForCausalLM", side="left"),
            ANSWER.rstrip("\n"),
            "```",
            "",
            f"An answer ends with `{end}`; all that may end one are in `generation_config.json`.",
            "",
            SANITIZED.format(end=end),
        ]
    )
