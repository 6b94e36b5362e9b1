"""Relevance models of 16 dimensions on an encoder of random weights, saved for a real server to load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from serm import relevance
from serm.settings import RelevanceSettings


def save(path: Path, base: Path, seed: int, words: Sequence[str]) -> None:
    """Save a model whose head is drawn by ``seed``; ``base`` becomes its encoder, which knows ``words``."""
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[PAD]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(base)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **size)).save_pretrained(base)
    encoder = relevance.load_encoder(str(base), RelevanceSettings(max_tokens=16))
    model = relevance.RelevanceModel.from_encoder(encoder, layers=1)
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.residual.head.weight)
    model.save(path)
