"""Relevance models of 16 dimensions with random weights: real files, real code, seconds less."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from serm import relevance
from serm.settings import RelevanceSettings

WORDS = ["query", "passage", ":", "cat", "dog", "face", "grinning", "heart", "red"]


def save_base(path: Path, words: Sequence[str] = WORDS) -> None:
    """Save an encoder of random weights that knows ``words``; the same each time."""
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(path)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **size)).save_pretrained(path)


def save(path: Path, base: Path, seed: int, words: Sequence[str] = WORDS) -> None:
    """Save a model whose head is drawn by ``seed``; ``base`` becomes its encoder, which knows ``words``."""
    save_base(base, words)
    encoder = relevance.load_encoder(str(base), RelevanceSettings(max_tokens=16))
    model = relevance.RelevanceModel.from_encoder(encoder, layers=1)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.residual.head.weight)
    model.save(path)


def save_lm(path: Path) -> None:
    """Save a causal language model of random weights: it knows nothing, and learns."""
    torch.manual_seed(0)
    words = [*WORDS, "Grade", "Rationale", "0", "1", "2", "3", "<", ">", "</", "document", "same", "other", "word"]
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
