"""Tiny models with random weights of many families, through the real transformers code.

Windows are shorter than the texts, dropouts are on in the configuration, weights are wide enough for
differences to show.
"""

from typing import Any

import torch
import transformers

VOCABULARY = 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.1}
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"initializer_range": 0.2}
GPT = {**TOKENS, **WIDE, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}

CONFIGS: dict[str, dict[str, Any]] = {
    "GPT2": GPT,
    "GPTNeo": {
        **TOKENS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 512,
        "attention_types": [[["global", "local"], 1]], "window_size": 48, "initializer_range": 0.2,
        "resid_dropout": 0.1, "embed_dropout": 0.1, "attention_dropout": 0.1,
    },
    "GPTNeoX": {**SIZES, "hidden_dropout": 0.1, "attention_dropout": 0.1},
    "GPTBigCode": {
        **GPT, "attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1,
    },
    "OPT": {
        **TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
        "max_position_embeddings": 512, "word_embed_proj_dim": 32, "init_std": 0.2,
        "dropout": 0.1, "attention_dropout": 0.1, "layerdrop": 0.2,
    },
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": 48},
    "Gemma2": {**GROUPED, "sliding_window": 48, "query_pre_attn_scalar": 8},
    "Gemma3Text": {**GROUPED, "sliding_window": 48, "query_pre_attn_scalar": 8},
    "Phi": {**SIZES, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attention_dropout": 0.1},
    "Bloom": {
        **TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2,
        "hidden_dropout": 0.1, "attention_dropout": 0.1,
    },
    "Falcon": {**SIZES, "hidden_dropout": 0.1, "attention_dropout": 0.1, "alibi": False},
    "Mpt": {
        "vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512,
        "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
    "GptOss": {**GROUPED, "sliding_window": 48, "num_local_experts": 2, "num_experts_per_tok": 1},
    "Mamba": {**TOKENS, **WIDE, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}  # fmt: skip


def make_policy(family: str) -> Any:
    """A causal language model of the family, as it is after loading."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**CONFIGS[family])
    return transformers.AutoModelForCausalLM.from_config(config).float()
