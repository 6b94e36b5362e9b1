"""The generative family: a causal language model that grades, with LoRA adapters (Hu et al. 2021, arXiv 2106.09685).

``Pr(y)`` is the softmax, at the place of the grade in the answer, over the tokens of the four grades only, with a
temperature fitted on held-out judgments. The rationale stands after the grade (it is learned and never generated), or
before it (then it is generated first, greedily, and the grade is read behind it), or there is none.

A text encoder stands beside it, for what a causal model does badly: near documents and clusters of queries.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional

from serm.atomic import replace_directory
from serm.contracts import Grade
from serm.errors import UserError
from serm.relevance.bases import load_encoder, read_encoder
from serm.relevance.causal import load_language_model
from serm.relevance.device import fast_matmul
from serm.relevance.encoder import Encoder
from serm.relevance.interface import CHARACTERS_A_TOKEN, Scores, length_batches, readable, unique
from serm.relevance.known import KnownTexts
from serm.relevance.ordinal import expected_grade
from serm.relevance.repository import panics_told
from serm.relevance.saved import finish, golden, limits, prove, verify
from serm.relevance.weights import finite
from serm.settings import RelevanceSettings

FAMILY = "generative"
GOLDEN_TOLERANCE = 0.3
"""As ``serm.relevance.saved.TOLERANCE``: a language model's weights are bf16 and its layers many."""
PROMPTS = Path(__file__).parent / "prompts"
GRADE, RATIONALE = "Grade:", "Rationale:"
_ANSWER = 16
"""Tokens that an answer has beside its rationale's."""
#: Escaped, so that no text can close its tag; and a sandbox, for a model's own template may come from the hub.
_JINJA = ImmutableSandboxedEnvironment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """A pair as the language model reads it."""

    text: str
    tokens: int
    cut: bool
    """Whether the document is longer than what the model reads."""


class GenerativeModel:
    """A causal language model with adapters that grades query-document pairs."""

    def __init__(self, lm: Any, tokenizer: Any, encoder: Encoder, prompt: str, config: dict[str, Any]) -> None:
        """Take over ``lm``, a peft model, and its tokenizer; ``prompt`` is the template's text.

        ``config`` holds rationale, rationale_tokens, max_tokens (of a query or a document), batch_tokens and
        temperature.

        Raises:
            UserError: a grade is not one token of this model.
        """
        self.lm = lm.eval()
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.prompt = prompt
        self.config = config
        self._tokenizing = threading.Lock()  # a tokenizer of transformers is changed by each call that cuts
        self.known: KnownTexts | None = None
        """Not used: a prompt is one text, in which query and document meet at once."""
        self.slots = 0
        """Places for prompts' tokens that were computed so far, those of padding too."""
        self.version = "unsaved"
        """The first 12 hex digits of a hash of the saved files; ``unsaved`` before."""
        self._template = _JINJA.from_string(prompt)
        self.stem, self.grade_tokens = _grade_tokens(tokenizer)

    @classmethod
    def from_base(cls, base: str, settings: RelevanceSettings) -> GenerativeModel:
        """Start from any causal language model of transformers, with fresh adapters, which change nothing yet.

        Raises:
            UserError: it cannot be found, has no safetensors or GGUF, is no causal language model, or its context is
                too short for ``relevance.max_tokens``.
        """
        options = settings.generative
        lora = LoraConfig(
            r=options.lora_rank,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        with panics_told(f"relevance.base {base!r}"):
            lm, tokenizer = load_language_model(base)
        config = {
            "rationale": options.rationale,
            "rationale_tokens": options.rationale_tokens,
            "max_tokens": settings.max_tokens,
            "batch_tokens": settings.batch_tokens,
            "temperature": 1.0,
        }
        prompt = (PROMPTS / f"{options.prompt}.jinja").read_text(encoding="utf-8")
        model = cls(get_peft_model(lm, lora), tokenizer, load_encoder(options.encoder, settings), prompt, config)
        context = getattr(lm.config, "max_position_embeddings", None)
        beside = len(model._ids(model.prompts([""], [""])[0])) + options.rationale_tokens + _ANSWER
        if context is not None and context < 2 * settings.max_tokens + beside:
            most = max(0, (context - beside) // 2)
            raise UserError(
                f"relevance.base {base!r} reads at most {context} tokens: prompt and answer leave room for two texts of"
                f" {most}, and relevance.max_tokens is {settings.max_tokens}; lower it, or take another base."
            )
        return model

    @property
    def frozen(self) -> str:
        """None: nothing of it reads a text alone."""
        return ""

    @property
    def max_tokens(self) -> int:
        """After how many tokens a text is cut."""
        return int(self.config["max_tokens"])

    def score(self, queries: Sequence[str], documents: Sequence[str]) -> Scores:
        """Score ``n`` pairs: ``queries[i]`` with ``documents[i]``, in the input's order; each distinct pair once."""
        return self._score(self.prompts(queries, documents))

    def read(self, queries: Sequence[str], documents: Sequence[str]) -> list[Prompt]:
        """Return ``n`` pairs' prompts; any thread may."""
        limit = self.config["max_tokens"]
        return [
            Prompt(prompt, len(self._ids(prompt)), len(self._ids(self._line(document, limit), limit + 1)) > limit)
            for prompt, document in zip(self.prompts(queries, documents), documents, strict=True)
        ]

    def score_read(self, pairs: Sequence[Prompt]) -> Scores:
        """Score pairs that ``read`` returned, at once."""
        return self._score([pair.text for pair in pairs])

    def prepare(self, documents: Sequence[str]) -> None:
        """Do nothing: it reads query and document as one text."""

    def _score(self, texts: Sequence[str]) -> Scores:
        prompts, rows = unique(texts)
        distribution = self.distribution(self.logits(self._until_grade(prompts)))[torch.from_numpy(rows)]
        return Scores(expected_grade(distribution).numpy(), distribution.numpy())

    def sample(self, queries: Sequence[str], documents: Sequence[str], samples: int, seed: int) -> NDArray[np.float64]:
        """Return ``samples`` sampled judgments a pair, as grades [samples, n]; the same seed gives the same samples.

        A judgment is what the model would say at temperature 1: a grade drawn from Pr(y), behind a rationale that was
        drawn too when it stands before the grade.
        """
        prompts, rows = unique(self.prompts(queries, documents))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.config["rationale"] == "before":
                drawn = [self.distribution(self.logits(self._until_grade(prompts, draw=True))) for _ in range(samples)]
            else:
                drawn = [self.distribution(self.logits(self._until_grade(prompts)))] * samples
            grades = [
                torch.multinomial(one, 1).squeeze(1) if len(one) else torch.zeros(0, dtype=torch.long) for one in drawn
            ]
        return torch.stack(grades).double().numpy()[:, rows]

    def distribution(self, logits: torch.Tensor) -> torch.Tensor:
        """Return Pr(y) [n, 4] for the grade tokens' logits [n, 4]; in float64, each row sums to 1."""
        return functional.softmax(logits.double() / self.config["temperature"], 1)

    def prompts(self, queries: Sequence[str], documents: Sequence[str]) -> list[str]:
        """Return each pair's prompt: texts cut after ``max_tokens`` tokens, and unable to close their tags."""
        return [
            self._template.render(query=self._cut(query, "max_tokens"), document=self._cut(document, "max_tokens"))
            for query, document in zip(queries, documents, strict=True)
        ]

    def answers(self, grades: Sequence[int], rationales: Sequence[str | None]) -> list[str]:
        """Return what the model should answer: the grade, with its rationale where the settings want it and it is."""
        order = self.config["rationale"]
        answers = []
        for grade, rationale in zip(grades, rationales, strict=True):
            label, why = f"{GRADE} {int(grade)}\n", f"{RATIONALE} {self._cut(rationale or '', 'rationale_tokens')}\n"
            if order == "before":
                answers.append(why + label)
            else:
                answers.append(label + why if rationale and order == "after" else label)
        return answers

    def grade_logits(self, queries: Sequence[str], documents: Sequence[str]) -> torch.Tensor:
        """Return the grade tokens' logits [n, 4] of ``n`` pairs."""
        return self.logits(self._until_grade(self.prompts(queries, documents)))

    def logits(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the grade tokens' logits [n, 4] behind ``texts``, which end with ``stem``."""
        ids = [self._ids(text) for text in texts]
        logits = torch.empty(len(ids), len(Grade))
        with torch.inference_mode(), fast_matmul(device=self.lm.device):
            for batch in length_batches(np.array([len(one) for one in ids], np.int64), self.config["batch_tokens"]):
                inputs = self.padded([ids[row] for row in batch])
                self.slots += inputs["input_ids"].numel()
                found = self.lm(**inputs, logits_to_keep=1).logits
                logits[batch] = found[:, -1, self.grade_tokens].float().cpu()
        return logits

    def calibrate(self, queries: Sequence[str], documents: Sequence[str], grades: NDArray[np.int64]) -> float:
        """Set the temperature to the likeliest one on held-out pairs; return it, within 1/20 to 20; 1 without any."""
        self.config["temperature"] = 1.0
        if len(grades):
            logits = self.grade_logits(queries, documents).double()
            logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.LBFGS([logarithm], max_iter=50, line_search_fn="strong_wolfe")

            def loss() -> float:
                optimizer.zero_grad()
                value = functional.cross_entropy(logits / logarithm.exp(), torch.from_numpy(grades))
                value.backward()  # type: ignore[no-untyped-call]
                return value.item()

            optimizer.step(loss)  # type: ignore[no-untyped-call]
            self.config["temperature"] = float(logarithm.detach().exp().clamp(0.05, 20))
        return float(self.config["temperature"])

    def save(self, path: Path) -> None:
        """Write the model to the directory ``path``, atomically, and set ``version``.

        ``adapter/`` is peft's, and ``lm/`` is the language model as it was: the same bytes for each model on it.
        """
        with replace_directory(path) as beside:
            lm: Any = self.lm
            lm.save_pretrained(beside / "adapter", save_embedding_layers=False)
            (beside / "adapter" / "README.md").unlink(missing_ok=True)
            _in_order(beside / "adapter" / "adapter_config.json")
            lm.get_base_model().save_pretrained(beside / "lm", state_dict=_without_adapters(lm))
            self.tokenizer.save_pretrained(beside / "lm")
            (beside / "prompt.jinja").write_text(self.prompt, encoding="utf-8")
            config = {"family": FAMILY, "generative": self.config, **self.encoder.save(beside)}
            config["golden"] = golden(self.at_once())
            self.version = finish(beside, config)

    def at_once(self) -> GenerativeModel:
        """Return the model as it grades without a rationale before, which another machine may word otherwise."""
        twin = copy.copy(self)
        twin.config = {**self.config, "rationale": "none"}
        return twin

    def padded(self, ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask and position_ids [n, longest], padded on the left, on the model's device."""
        longest = max(len(one) for one in ids)
        tokens = torch.zeros(len(ids), longest, dtype=torch.long)
        mask = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, one in enumerate(ids):
            tokens[row, longest - len(one) :] = torch.tensor(one)
            mask[row, longest - len(one) :] = 1
        inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        return {name: one.to(self.lm.device) for name, one in inputs.items()}

    def _until_grade(self, prompts: Sequence[str], draw: bool = False) -> list[str]:
        """Continue prompts up to the place of the grade, behind a rationale if it stands before it."""
        if self.config["rationale"] != "before":
            return [prompt + self.stem for prompt in prompts]
        return [
            f"{prompt}{RATIONALE}{why}\n{self.stem}"
            for prompt, why in zip(prompts, self._rationales(prompts, draw), strict=True)
        ]

    def _rationales(self, prompts: Sequence[str], draw: bool) -> list[str]:
        """Generate a rationale for each prompt, one line of at most ``rationale_tokens`` tokens."""
        ids = [self._ids(prompt + RATIONALE) for prompt in prompts]
        found = [""] * len(ids)
        options = {"do_sample": draw, "max_new_tokens": self.config["rationale_tokens"], "pad_token_id": 0}
        if draw:
            options |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode(), fast_matmul(device=self.lm.device):
            for batch in length_batches(np.array([len(one) for one in ids], np.int64), self.config["batch_tokens"]):
                inputs = self.padded([ids[row] for row in batch])
                self.slots += inputs["input_ids"].numel()
                inputs.pop("position_ids")  # generate makes its own
                made = self.lm.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
                for row, text in zip(batch, self.tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
                    found[row] = " " + text.strip().partition("\n")[0]
        return found

    def _line(self, text: str, limit: int) -> str:
        return " ".join(readable(text, limit * CHARACTERS_A_TOKEN).split())

    def _ids(self, text: str, limit: int | None = None) -> list[int]:
        """Return the tokens of ``text``; with a limit, the text's own ones only, and no more than that."""
        options: dict[str, Any] = {}
        if limit is not None:
            options = {"add_special_tokens": False, "truncation": True, "max_length": limit}
        with self._tokenizing:
            ids: list[int] = self.tokenizer(text, **options).input_ids
        return ids

    def _cut(self, text: str, limit: str) -> str:
        """Return the text of one line, cut after as many tokens as ``config[limit]`` says."""
        line = self._line(text, self.config[limit])
        ids = self._ids(line, self.config[limit])
        return line if len(ids) < self.config[limit] else str(self.tokenizer.decode(ids)).strip()


def read_model(
    path: Path, config: dict[str, Any], version: str, kept: RelevanceSettings | None = None
) -> GenerativeModel:
    """Read a saved generative model, after each file's sha256 was checked.

    Raises:
        UserError: a file was changed, or is not what its name says.
    """
    verify(path, config, [name for name in config["sha256"] if "/" in name or name == "prompt.jinja"])
    limits(config["generative"], path)
    if not (path / "adapter" / "adapter_model.safetensors").is_file():  # peft would take a pickle, or ask the hub
        raise UserError(f"{path}/adapter: no adapter_model.safetensors; restore it with dvc checkout.")
    lm, tokenizer = load_language_model(str(path / "lm"))
    lm = PeftModel.from_pretrained(lm, path / "adapter", is_trainable=True)
    prompt = (path / "prompt.jinja").read_text(encoding="utf-8")
    encoder = read_encoder(path, config, kept)
    model = GenerativeModel(lm, tokenizer, encoder, prompt, dict(config["generative"]))
    model.version = version
    finite(lm.state_dict(), path)
    if not torch.isfinite(model.logits([model.stem])).all():
        raise UserError(f"{path}: the model's grades are not finite; train it again.")
    prove(model.at_once(), path, config, GOLDEN_TOLERANCE)
    return model


def _grade_tokens(tokenizer: Any) -> tuple[str, list[int]]:
    """Return what stands before a grade, and the token of each grade behind it.

    Tokenizers join the space to the digit, or make it a token of its own: then it stands before the grade.
    """
    for stem in (GRADE, f"{GRADE} "):
        before = tokenizer(stem, add_special_tokens=False).input_ids
        found = [tokenizer(f"{GRADE} {int(grade)}", add_special_tokens=False).input_ids for grade in Grade]
        one_more = all(ids[:-1] == before for ids in found)
        if one_more and len({ids[-1] for ids in found}) == len(Grade):
            return stem, [ids[-1] for ids in found]
    raise UserError(
        f"relevance.base: its tokenizer does not write {GRADE} 0 to {GRADE} 3 as one more token than {GRADE} alone;"
        " take another language model."
    )


def _without_adapters(lm: Any) -> dict[str, torch.Tensor]:
    """Return the language model's own state, as it was before peft put adapters into it."""
    state = lm.get_base_model().state_dict()
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}


def _in_order(file: Path) -> None:
    """Write peft's config with its sets in order, and without paths of this machine: the same model, the same bytes."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config = {name: sorted(value) if isinstance(value, list) else value for name, value in config.items()}
    config["base_model_name_or_path"] = "../lm"
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
