"""Every overlay as kubectl builds it: its schemas, KServe's own rules, and that what it names is there."""

from __future__ import annotations

import copy
import importlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml
from cluster_manifests import GIVEN, OVERLAYS, ROOT, Object, amount, built, check, every, name_of, pods, references, the

from components import images
from pipelines.compile import COMPILED
from serm.cli import app
from serm.rollout.traffic.configmap import ConfigMapOptions
from serm.serving.manifests import inference_service
from serm.serving.transformer import experiment
from serm.settings import Settings


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_builds_and_names_each_object_once(overlay: str) -> None:
    names = [(one["apiVersion"], name_of(one), one["metadata"].get("namespace")) for one in built()[overlay]]
    assert len(names) == len(set(names)) > 40
    apart = {"Namespace", "ClusterStorageContainer", "ClusterRole", "ClusterRoleBinding"}
    for one in built()[overlay]:
        assert (one["metadata"].get("namespace") == "search") == (one["kind"] not in apart), name_of(one)


def test_every_object_is_valid_against_the_schema_of_its_own_version() -> None:
    objects = every()
    assert len(objects) > 60
    for where, one in objects:
        try:
            check(one)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{where}: {'.'.join(map(str, error.path))}: {error.message}")


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "serm-exporter", ("spec", "replica"), 1),
        ("NetworkPolicy", "deny-all", ("spec", "podSelectors"), {}),
        ("CronJob", "serm-rollout", ("spec", "suspend"), "yes"),
        ("InferenceService", "relevance", ("spec", "predictor", "minReplica"), 1),
        ("ServingRuntime", "serm-relevance", ("spec", "protocolVersions"), "v1"),
        ("TrainingRuntime", "serm-train", ("spec", "mlPolicy", "nodes"), 2),
        ("ServiceMonitor", "serm-exporter", ("spec", "endpoint"), []),
    ],
)
def test_a_field_that_the_cluster_would_refuse_fails(kind: str, name: str, path: tuple[str, ...], value: Any) -> None:
    one = copy.deepcopy(the("standard", kind, name))
    within = one
    for key in path[:-1]:
        within = within[key]
    within[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(one)


def kserve_refuses(service: Object) -> list[str]:
    """The rules of KServe's webhook that its schema lacks (read from its source, 2026-08), as sentences."""
    spec, told = service["spec"], []
    stable, canaries = spec["predictor"], spec.get("canary", [])
    mode = service["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode")
    shares = [one["trafficPercent"] for one in canaries]
    if "canaryTrafficPercent" in stable:
        shares.append(stable["canaryTrafficPercent"])
        if mode != "Knative":
            told.append("canaryTrafficPercent is ignored outside Knative mode")
    if any(not 0 <= share <= 100 for share in shares) or sum(shares) > 100:
        told.append("shares are percentages, of 100 together")
    if canaries and mode != "Standard":
        told.append("spec.canary needs the mode Standard")
    names = [one["predictor"].get("name") for one in canaries]
    if None in names or len({*names, stable.get("name")}) != len(names) + 1:
        told.append("each canary needs a name of its own")
    for one in canaries:
        if {"maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec"} & one["predictor"].keys():
            told.append("a canary does not scale by itself")
        if one["predictor"].get("minReplicas", 0) > stable.get("minReplicas", 1):
            told.append("a canary has no more replicas than the stable predictor")
        if "name" not in one["predictor"].get("model", {}):
            told.append("a canary's model needs a name")
    for part in (stable, spec["transformer"]):
        if part.get("minReplicas", 1) > part.get("maxReplicas", part.get("minReplicas", 1)):
            told.append("minReplicas is above maxReplicas")
    return told


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kserve_s_own_rules_which_no_schema_has_are_kept(overlay: str) -> None:
    service = the(overlay, "InferenceService", "relevance")
    assert kserve_refuses(service) == []
    assert ("canary" in service["spec"]) == (overlay != "knative")


@pytest.mark.parametrize("mode", ["standard", "knative"])
def test_the_overlay_s_service_is_what_the_deploy_step_writes(mode: str) -> None:
    window = {"number": 1, "start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}
    settings = Settings.model_validate({"cycle": window, "serving": {"mode": mode}})
    written = inference_service(settings, settings.serving.canary_percent)
    found = yaml.safe_load((ROOT / f"manifests/overlays/{mode}/inferenceservice.yaml").read_text(encoding="utf-8"))
    for one in (written, found):  # names and spares are the overlay's own to say
        for part in (one["spec"]["predictor"], *(canary["predictor"] for canary in one["spec"].get("canary", []))):
            part.pop("minReplicas", None)
            part.pop("name", None)
    assert found == written


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trafficPercent": 101}, "percentages"),
        ({"predictor": {"model": {"name": "m"}}}, "name of its own"),
        ({"predictor": {"name": "a", "minReplicas": 9, "model": {"name": "m"}}}, "no more replicas"),
        ({"predictor": {"name": "a", "maxReplicas": 1, "model": {"name": "m"}}}, "does not scale"),
    ],
)
def test_a_canary_that_kserve_would_refuse_is_found(change: Object, told: str) -> None:
    service = copy.deepcopy(the("standard", "InferenceService", "relevance"))
    service["spec"]["canary"][0] |= change
    assert any(told in one for one in kserve_refuses(service))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_configmap_claim_account_and_role_that_is_named_is_there(overlay: str) -> None:
    there = {(one["kind"], one["metadata"]["name"]): one for one in built()[overlay]}
    named = {reference for one in built()[overlay] for reference in references(one)}
    assert len(named) > 15
    for kind, name, key in named:
        if kind != "Secret" and (kind, name) not in GIVEN:
            assert (kind, name) in there, f"{overlay}: {kind} {name}"
            if kind == "ConfigMap" and key:
                assert key in there[kind, name]["data"], f"{overlay}: {name} has no {key}"


def test_the_install_page_makes_every_secret_that_is_named() -> None:
    named = {(name, key) for _, one in every() for kind, name, key in references(one) if kind == "Secret"}
    page = (ROOT / "docs/install-on-a-cluster.md").read_text(encoding="utf-8")
    made = re.search(r"create secret generic serm((?:[^\n]*\\\n)+[^\n]*)", page)
    assert made
    assert {("serm", key) for key in re.findall(r"--from-\w+=([\w-]+)=", made[1])} == named


def test_the_install_page_s_settings_are_settings() -> None:
    page = (ROOT / "docs/install-on-a-cluster.md").read_text(encoding="utf-8")
    found: Object = {}
    for block in re.findall(r"```yaml\n(.*?)```", page, re.S):
        found |= yaml.safe_load(block)
    window = {"number": 1, "start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}
    settings = Settings.model_validate({"cycle": window, **found})
    assert settings.rollout.traffic == "configmap"


def test_what_the_pipelines_ask_for_is_what_the_manifests_give() -> None:
    asked: set[str] = set()
    for path in COMPILED.glob("*.yaml"):
        for document in yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader):
            asked |= set(re.findall(r'"image": "([^"]+)"', json.dumps(document)))
            platforms = json.dumps(document.get("platforms", {}))
            assert not re.findall(r'"(?:secretAsEnv|secretAsVolume|pvcMount)"', platforms), path
    kept = {images.DATA, images.TRAIN, images.JUDGE, images.SERVE}
    used = {one["image"] for made in pods(built()["standard"]) for one in made.containers}
    used.add(the("standard", "ClusterStorageContainer", "serm-dvc")["spec"]["container"]["image"])
    assert asked | {image for image in used if "serm-" in image} == kept


def test_images_have_a_version_and_no_image_is_the_latest() -> None:
    for _, one in every():
        for image in re.findall(r'"image": "([^"]+)"', json.dumps(one)):
            name, _, version = image.rpartition("/")[2].partition("@" if "@" in image else ":")
            assert version, f"{name_of(one)}: {image}"
            assert version not in ("latest", "main", "master"), f"{name_of(one)}: {image}"
            assert "/" in image, f"{name_of(one)}: {name} is of no registry"


def _runs(container: Object) -> list[str]:
    return [*container.get("command", []), *container.get("args", [])]


def test_every_command_is_one_that_serm_has_with_its_flags() -> None:
    seen = set()
    for where, made in ((name, one) for name in OVERLAYS for one in pods(built()[name])):
        for container in made.containers:
            if not (words := _runs(container)) or "serm" not in container["image"]:
                continue
            if words[0] == "serm":
                command: Any = typer.main.get_command(app)
                rest = words[1:]
                while hasattr(command, "commands"):
                    command = command.commands[rest.pop(0)]
                known = {option for parameter in command.params for option in parameter.opts}
                assert {word.partition("=")[0] for word in rest} <= known, f"{where}: {words}"
                seen.add(command.name)
            elif words[:2] == ["python", "-m"]:
                module = importlib.import_module(words[2] if "transformer" not in words[2] else f"{words[2]}.__main__")
                source = Path(str(module.__file__)).read_text(encoding="utf-8")
                for word in words[3:]:
                    assert f'"{word.partition("=")[0]}"' in source, f"{where}: {word}"
                seen.add(words[2])
    assert len(seen) == 5  # metrics, review, the rollout's look, both servers


def test_probes_ask_paths_that_the_servers_answer() -> None:
    from serm.serving import application
    from serm.serving.transformer import application as transformer

    for made in pods(built()["standard"]):
        for container in made.containers:
            answers = transformer if "transformer" in " ".join(_runs(container)) else application
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = container.get(probe, {}).get("httpGet", {}).get("path", "")
                if path.startswith("/v"):
                    template = path.replace("{{.Name}}", "{name}")
                    assert f'Route("{template}"' in Path(answers.__file__).read_text(encoding="utf-8"), made.where


def test_the_experiment_is_one_that_the_transformer_reads_and_the_rollout_changes(tmp_path: Path) -> None:
    defaults = ConfigMapOptions()
    found = the("standard", "ConfigMap", defaults.configmap)["data"][defaults.key]
    (tmp_path / "experiment.yaml").write_text(found, encoding="utf-8")
    assert experiment.read(tmp_path / "experiment.yaml").percent == 0
    changes, looks_at = the("standard", "Role", "serm-rollout")["rules"]
    assert (changes["resources"], changes["resourceNames"]) == (["configmaps"], [defaults.configmap])
    assert changes["verbs"] == ["get", "patch"]
    assert (looks_at["resources"], looks_at["verbs"]) == (["inferenceservices"], ["get"])


def test_the_small_overlay_fits_four_cpus_and_eight_gigabytes_beside_one_step() -> None:
    cpu = memory = 0.0
    for made in pods(built()["dev"]):
        for container in made.containers:
            asked = container["resources"]["requests"]
            cpu += made.most * amount(asked["cpu"])
            memory += made.most * amount(asked["memory"])
    assert cpu <= 3
    assert memory <= 7 * 2**30


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_quota_holds_all_pods_at_their_most(overlay: str) -> None:
    hard = the(overlay, "ResourceQuota", "serm")["spec"]["hard"]
    for of in ("requests", "limits"):
        for what in ("cpu", "memory", "nvidia.com/gpu"):
            wanted = sum(
                (made.most or made.serves) * amount(str(container["resources"].get(of, {}).get(what, "0")))
                for made in pods(built()[overlay])
                for container in made.containers
            )
            if wanted and f"{of}.{what}" in hard:
                assert wanted <= amount(hard[f"{of}.{what}"]), f"{overlay}: {of}.{what}"
