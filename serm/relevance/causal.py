"""Loading a causal language model of transformers: from disk or the hub's cache, and never with its code."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from serm.errors import UserError
from serm.relevance.bases import base_folder
from serm.relevance.device import device
from serm.relevance.repository import fitting, read_json, reason, refuse_code, require_safetensors, tensor_count
from serm.relevance.weights import finite


def load_language_model(base: str) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, from safetensors, or from GGUF where there are none.

    Raises:
        UserError: it cannot be found, has neither, brings code of its own, or is no causal language model.
    """
    folder = base_folder(base)
    quantised = [] if any(folder.glob("*.safetensors")) else sorted(file.name for file in folder.glob("*.gguf"))
    source: dict[str, Any] = {"gguf_file": quantised[0]} if quantised else {"use_safetensors": True}
    refuse_code(folder)
    if not quantised:
        require_safetensors(folder)
        fitting(read_json(folder / "config.json"), folder / "config.json", tensor_count(folder))
    known: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **known, **({"gguf_file": quantised[0]} if quantised else {}))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, **known, **source, dtype=torch.bfloat16 if quantised else "auto", output_loading_info=True
        )
        lm, found = loaded
        if lost := sorted(found["missing_keys"]):
            raise UserError(f"its weights lack {len(lost)} tensors, such as {lost[0]}")
        finite(lm.state_dict(), folder)
    except Exception as error:  # what transformers makes of files that somebody made by hand
        told = str(error) if isinstance(error, UserError) else reason(error)
        raise UserError(
            f"relevance.base {base!r} cannot be loaded as a causal language model: {told.rstrip('.')}; give a hub id or"
            " a directory of one, with safetensors or GGUF."
        ) from error
    return lm.to(device()), tokenizer
