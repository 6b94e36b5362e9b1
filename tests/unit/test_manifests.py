"""The InferenceService in both modes and the TrainJob, against the projects' own CRDs."""

from __future__ import annotations

import gzip
import json
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import yaml

from serm.errors import UserError
from serm.serving import storage
from serm.serving.manifests import RUNTIME, as_yaml, inference_service
from serm.serving.transformer import __main__ as transformer
from serm.settings import CycleSettings, ServingSettings, Settings, TrainingSettings
from serm.trainjob import train_job

SCHEMAS = Path(__file__).parents[1] / "data/schemas"
ROOT = Path(__file__).parents[2]


def _settings(mode: Literal["knative", "standard"]) -> Settings:
    cycle = CycleSettings(number=3, start=datetime(2020, 1, 1, tzinfo=UTC), end=datetime(2021, 1, 1, tzinfo=UTC))
    return Settings(cycle=cycle, serving=ServingSettings(mode=mode))


def _check(manifest: dict[str, Any]) -> None:
    group, version = manifest["apiVersion"].split("/")
    with gzip.open(SCHEMAS / f"{group}_{version}_{manifest['kind']}.json.gz") as schema:
        jsonschema.Draft202012Validator(json.load(schema)).validate(manifest)


@pytest.mark.parametrize("mode", ["knative", "standard"])
@pytest.mark.parametrize("percent", [0, 10, 100])
def test_valid_against_the_crd(mode: Literal["knative", "standard"], percent: int) -> None:
    text = as_yaml(inference_service(_settings(mode), percent))
    assert "*id" not in text  # YAML aliases: valid, but no one reads them
    _check(yaml.safe_load(text))


def test_the_crd_check_can_fail() -> None:
    manifest = inference_service(_settings("standard"), 10)
    manifest["spec"]["canary"][0]["traffic"] = 10
    with pytest.raises(jsonschema.ValidationError):
        _check(manifest)


def test_standard_mode_names_both_models() -> None:
    spec = inference_service(_settings("standard"), 10)["spec"]
    (canary,) = spec["canary"]
    assert canary["trafficPercent"] == 10
    assert canary["predictor"]["name"] == "cycle-0003"  # a promotion gives it to the predictor, so none is used twice
    assert canary["predictor"]["minReplicas"] == spec["predictor"]["minReplicas"] == 1  # up at 0 % too
    assert canary["predictor"]["model"]["name"]  # the API server wants one
    assert canary["predictor"]["model"]["storageUri"] == "dvc://cycle-0003/cycle/train/model"
    assert spec["predictor"]["model"]["storageUri"] == "dvc://cycle-0003/state/champion"
    assert not {"maxReplicas", "autoScaling", "scaleTarget", "scaleMetric"} & canary["predictor"].keys()
    assert "canaryTrafficPercent" not in spec["predictor"]  # silently ignored in this mode


def test_what_a_predictor_takes_reaches_both_models() -> None:
    serving = ServingSettings.model_validate({"predictor": {"batch_tokens": 512, "access_log": "requests"}})
    settings = _settings("standard").model_copy(update={"serving": serving})
    manifest = inference_service(settings, 10)
    _check(manifest)
    for predictor in (manifest["spec"]["predictor"], manifest["spec"]["canary"][0]["predictor"]):
        assert predictor["model"]["args"] == ["--batch-tokens=512", "--access-log=requests"]
    assert "args" not in inference_service(_settings("standard"), 10)["spec"]["predictor"]["model"]


@pytest.mark.parametrize("field", ["storage_uri", "champion_uri"])
@pytest.mark.parametrize(
    "uri", ["dvc://{tag}//etc", "dvc://{tag}/../x", "dvc://--x/a", "dvc://{tag}/a\\b", "dvc://{tag}"]
)
def test_a_storage_uri_that_could_lead_elsewhere_is_refused(field: str, uri: str) -> None:
    settings = _settings("standard").model_copy(update={"serving": ServingSettings.model_validate({field: uri})})
    with pytest.raises(UserError, match=r"expected dvc://TAG/PATH"):
        inference_service(settings, 10)


def test_knative_mode_sends_a_share_to_the_new_revision() -> None:
    manifest = inference_service(_settings("knative"), 10)
    assert manifest["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert manifest["spec"]["predictor"]["model"]["storageUri"] == "dvc://cycle-0003/cycle/train/model"
    assert "canary" not in manifest["spec"]
    assert manifest["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"


@pytest.mark.parametrize("percent", [-1, 101])
def test_percentages_stay_within_bounds(percent: int) -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        inference_service(_settings("knative"), percent)


@pytest.mark.parametrize("mode", ["knative", "standard"])
def test_containers_are_locked_down(mode: Literal["knative", "standard"]) -> None:
    spec = inference_service(_settings(mode), 10)["spec"]
    for predictor in [spec["predictor"], *(canary["predictor"] for canary in spec.get("canary", []))]:
        security = predictor["model"]["securityContext"]
        assert security["runAsNonRoot"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


def test_the_runtime_exists_and_is_valid() -> None:
    runtime = yaml.safe_load((ROOT / "manifests" / "base" / "servingruntime.yaml").read_text())
    assert runtime["metadata"]["name"] == RUNTIME
    assert RUNTIME in [one["name"] for one in runtime["spec"]["supportedModelFormats"]]
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == inference_service(_settings("standard"), 0)["spec"]["predictor"]["model"]["name"]
    _check(runtime)


def test_the_storage_container_that_fetches_dvc_is_valid() -> None:
    container = yaml.safe_load((ROOT / "manifests/cluster/clusterstoragecontainer.yaml").read_text())
    assert [one["prefix"] for one in container["spec"]["supportedUriFormats"]] == ["dvc://"]
    assert find_spec(container["spec"]["container"]["command"][2]) is not None
    assert storage.REPOSITORY in [one["name"] for one in container["spec"]["container"]["env"]]
    _check(container)


def test_an_inference_service_with_the_transformer_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    service = inference_service(_settings("standard"), 10)
    service["spec"] |= yaml.safe_load((ROOT / "manifests/components/transformer/transformer.yaml").read_text())["spec"]
    _check(service)
    (container,) = service["spec"]["transformer"]["containers"]
    assert find_spec(f"{container['command'][2]}.__main__") is not None
    # What KServe adds to them; without the key the command line is read, and nothing more is done.
    added = ["--model_name", "relevance", "--predictor_host", "relevance-predictor.search", "--http_port", "8080"]
    monkeypatch.setattr(sys, "argv", ["transformer", *container["args"], *added])
    monkeypatch.delenv("SERM_USER_KEY", raising=False)
    with pytest.raises(SystemExit, match="SERM_USER_KEY is not set"):
        transformer.main()


def _train_job(**job: Any) -> dict[str, Any]:
    return train_job(
        _settings("standard").model_copy(update={"training": TrainingSettings.model_validate({"job": job})})
    )


def test_the_train_job_is_valid_and_runs_the_train_step_under_torchrun() -> None:
    manifest = yaml.safe_load(as_yaml(_train_job(nodes=2, processes_per_node=4, gpus=4)))
    _check(manifest)
    trainer = manifest["spec"]["trainer"]
    assert trainer["command"] == ["torchrun", "--no-python", "serm", "train"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "4"
    assert "nvidia.com/gpu" not in str(_train_job())
    assert manifest["metadata"]["name"] == "serm-train-cycle-0003"
    manifest["spec"]["trainer"]["nodes"] = 2
    with pytest.raises(jsonschema.ValidationError):
        _check(manifest)


def test_the_training_runtime_is_the_one_that_the_job_names() -> None:
    runtime = yaml.safe_load((ROOT / "manifests" / "base" / "trainingruntime.yaml").read_text())
    reference = _train_job()["spec"]["runtimeRef"]
    assert runtime["apiVersion"].split("/")[0] == reference["apiGroup"]
    assert (runtime["kind"], runtime["metadata"]["name"]) == (reference["kind"], reference["name"])
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"  # Kubeflow Trainer patches the job and the container of this name
    assert job["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    pod = job["template"]["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["containers"]] == ["node"]
    assert pod["securityContext"]["runAsNonRoot"]
