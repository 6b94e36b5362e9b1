"""Do the servers keep to what they say of themselves, whatever is sent? schemathesis asks, from their own descriptions.

    python benchmarks/conformance.py [--examples 500]

The predictor and the transformer answer on real sockets; schemathesis reads /openapi.json of each, and sends requests
that are right, wrong in each way that the description lets it think of, and mutated. No answer may be a 5xx, of another
shape or status than described, an acceptance of what is wrong, or a refusal of what is right. What JSON Schema cannot
say is named in ``KNOWN`` and left out. Ends with 1 where something else was found. ``make bench NAME=conformance``
brings schemathesis in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serm.atomic import write_json
from serm.settings.serving import PredictorSettings

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from serving_here import serving
from transforming import save_models, transforming, write_store

RESULT = Path(__file__).parent / "results" / "conformance.json"
SEED = 1
#: What a description cannot say, by what the server answers: of that alone a refusal is right.
KNOWN = ("its id stands there twice", "and a shape of", "expected [n], one number", "expected one of", "No model")
#: A request that is too large is refused with 413.
CONFIG = """
[checks]
negative_data_rejection.expected-statuses = [400, 404, 405, 406, 413, 415]
"""


def main() -> None:
    """Ask both servers, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=500, help="Requests at most of each operation and kind.")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        models, documents = save_models(root), write_store(root)
        with serving(models, PredictorSettings(max_request_pairs=4)) as predictor:
            upstream = str(predictor.base_url).rstrip("/")
            with transforming(upstream, root / "log", documents=documents, max_documents=4) as (transformer, _, _):
                urls = {"predictor": upstream, "transformer": str(transformer.base_url).rstrip("/")}
                found = {name: asked(url, options.examples, root) for name, url in urls.items()}
    about = {"date": str(date.today()), "processor": platform.processor() or platform.machine(), "seed": SEED}
    about |= {
        "command": f"python benchmarks/conformance.py --examples {options.examples}",
        "schemathesis": version("schemathesis"),
    }
    summary = {f"{name}: {what}": value for name, of in found.items() for what, value in of.items()}
    write_json(options.out, {**about, "summary": summary})
    print(json.dumps(summary, indent=2))
    sys.exit(any(of["faults"] for of in found.values()))


def asked(url: str, examples: int, root: Path) -> dict[str, Any]:
    """Return how many requests one server was sent, and each fault that was found, by how often."""
    (root / "schemathesis.toml").write_text(CONFIG, encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(root / "schemathesis.toml"), "run"]
    command += [f"{url}/openapi.json", f"--max-examples={examples}", f"--seed={SEED}", "--continue-on-failure"]
    done = subprocess.run([*command, "--no-color"], capture_output=True, text=True, check=False, cwd=root)
    sent = re.search(r"([\d,]+) generated", done.stdout)
    if not sent:
        raise SystemExit(f"schemathesis did not run:\n{done.stdout}{done.stderr}")
    faults = [one for one in told(done.stdout) if not any(known in one for known in KNOWN)]
    return {"requests": int(sent[1].replace(",", "")), "faults": faults}


def told(output: str) -> list[str]:
    """Return schemathesis' failures, one a line: what, where, and what the server answered."""
    parts = re.split(r"^_{3,} (.*?) _{3,}$", output, flags=re.MULTILINE)
    found = []
    for where, text in zip(parts[1::2], parts[2::2], strict=True):
        for one in re.split(r"^\d+\. Test Case ID.*$", text, flags=re.MULTILINE)[1:]:
            found.append(f"{where}: {' '.join(one.split('Reproduce with')[0].split())[:600]}")
    return found


if __name__ == "__main__":
    main()
