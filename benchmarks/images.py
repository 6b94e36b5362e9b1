"""Do the images run SERM? One small cycle with each step in its container, and a predictor that answers from its image.

    make images-test BASE_IMAGE=...    (python benchmarks/images.py DIRECTORY)

Docker has the four images (``make images``). The pipeline ``evolve`` runs one window of a small emoji world, users
simulated, by KFP's DockerRunner: as uid 10001, the root read only, no network, /tmp and the run's volumes alone to
write to. Then the image ``train`` serves the champion and the image ``serve`` its export (OpenVINO int8), in the same
way but for the port, and their scores are those that the models give here. benchmarks/results/images.json has the
sizes, the steps and the date.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import httpx
import numpy as np

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]
import tiny_encoder

import pipelines  # the file beside this one
from components import images
from serm import relevance
from serm.atomic import write_json
from serm.kubeflow.repository import checkout
from serm.layout import CHAMPION
from serm.relevance import export
from serm.relevance.saved import finish, golden
from serm.steps import GIVEN

RESULT = Path(__file__).parent / "results" / "images.json"
USER = "10001:10001"
PROGRAM = """
import json, os, sys
from kfp import components, local
package, root, volume, given = sys.argv[1:]
os.umask(0)  # what this process makes is for the containers' user too
os.makedirs(volume)
inside = local.DockerRunner(user="10001:10001", read_only=True, network_mode="none",
                            tmpfs={"/tmp": "rw,exec,size=2g"}, cap_drop=["ALL"])
local.init(runner=inside, pipeline_root=root, workspace_root=volume)
components.load_component_from_file(package)(**json.loads(given))
"""
ALIKE = "the scores that the model gives here"
PAIRS = [("cat", "grinning cat"), ("cat", "red heart"), ("dog", "dog face")]


def main() -> None:
    """Run the cycle and the predictor, and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    here = parser.parse_args().directory.absolute()
    os.umask(0)
    encoder = tiny_encoder.write(here / "tasks" / "encoder")
    # All that a container sees lies below the pipeline's root.
    _, origin = pipelines.found(here / "tasks", encoder)
    repository, taken = f"file://{origin}", {one.name: here / "tasks" / "given" / one.name for one in GIVEN}
    settings = checkout(repository, here / "tasks" / "clone", taken, False)
    subprocess.run(["chown", "-R", USER, str(here / "tasks")], check=True)
    given = {"settings": settings, "repository": repository, "force": True, **{n: str(at) for n, at in taken.items()}}
    ran = pipelines.whole("evolve", given, here, PROGRAM)
    champion, exported = here / "tasks" / "shop" / CHAMPION, here / "export"
    write_export(champion, exported)
    answered = {"trained": served(champion, images.TRAIN), "exported": served(exported, images.SERVE)}
    found = {
        "cycle, each step in its container": ran["ended"],
        "cycle, seconds": ran["seconds"],
        **{f"predictor of a model, read-only root: {kind}": told for kind, told in answered.items()},
        **{f"{name}: MB": size(image) for name, image in named().items()},
    }
    about = {"date": str(date.today()), "processor": platform.processor() or platform.machine(), "users": "simulated"}
    about |= {"command": "python benchmarks/images.py DIRECTORY", "docker": told("version", "{{.Server.Version}}")}
    write_json(RESULT, {**about, "summary": found, "tasks": ran["tasks"]})
    print(json.dumps(found, indent=2))
    sys.exit(ran["ended"] != "succeeded" or any(told != ALIKE for told in answered.values()))


def named() -> dict[str, str]:
    """Return the images' tags by their names."""
    return {name.lower(): getattr(images, name) for name in ("DATA", "TRAIN", "JUDGE", "SERVE")}


def size(image: str) -> int:
    """Return an image's unpacked size in megabytes."""
    return round(int(told("image", "{{.Size}}", "inspect", image)) / 1e6)


def told(noun: str, form: str, *words: str) -> str:
    """Return what docker says in a form."""
    command = ["docker", noun, *words, "--format", form]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_export(trained: Path, out: Path) -> None:
    """Export a model to OpenVINO int8 without the check against it, for which this world has too few pairs."""
    out.mkdir()
    queries, documents = (list(column) for column in zip(*PAIRS, strict=True))
    model = relevance.load(trained)
    assert isinstance(model, relevance.RelevanceModel)
    config = export.write(model, out, "openvino", "int8", (queries, documents))
    finish(out, {**config, "precision": "int8", "golden": golden(export.opened(out, config))})


def served(model: Path, image: str) -> str:
    """Serve a model from an image, and return whether it scores as here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = ["--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", USER, "--network", "host"]
    inside = ["python", "-m", "serm.serving.predictor", "--model", "champion=/model", "--http-port", str(port)]
    run = ["docker", "run", *limits, "--volume", f"{model.resolve()}:/model:ro", image, *inside]
    server = subprocess.Popen(run)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            wait(client, server, image)
            instances = [{"query": query, "document": document} for query, document in PAIRS]
            answer = client.post("/v1/models/champion:predict", json={"instances": instances}).raise_for_status()
            scores = [one["score"] for one in answer.json()["predictions"]]
    finally:
        server.terminate()
        server.wait(60)
    queries, documents = (list(column) for column in zip(*PAIRS, strict=True))
    furthest = float(np.abs(np.array(scores) - relevance.load_scorer(model).score(queries, documents).expected).max())
    return ALIKE if furthest < 1e-3 else f"other scores, by {furthest}"


def wait(client: httpx.Client, server: subprocess.Popen[bytes], image: str) -> None:
    """Wait for the server to be ready.

    Raises:
        RuntimeError: it ended, or was not ready in two minutes.
    """
    for _ in range(240):
        try:
            if client.get("/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if server.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"the predictor did not come up from {image}")


if __name__ == "__main__":
    main()
