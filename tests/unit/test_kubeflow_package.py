"""What params.yaml asks of a cluster stands in the uploaded pipeline as KFP's own compiler would have written it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from serm import settings
from serm.errors import UserError
from serm.kubeflow.package import COMPILED, given, package, pipelines
from serm.settings import KubeflowSettings
from serm.settings.kubeflow import TaskSettings

#: The same step twice, by KFP's compiler: bare, and with all that kfp and kfp-kubernetes can give it.
PEER = """
import sys
from kfp import compiler, dsl, kubernetes

@dsl.component(base_image="example.org/serm-train:1", install_kfp_package=False)
def mine(kept: str) -> str:
    return kept

def pipeline(full):
    workspace = dsl.WorkspaceConfig(size="20Gi")
    if full:
        workspace = dsl.WorkspaceConfig(
            size="5Gi", kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"storageClassName": "fast"}))

    @dsl.pipeline(name="peer", pipeline_config=dsl.PipelineConfig(workspace=workspace))
    def peer():
        task = mine(kept=dsl.WORKSPACE_PATH_PLACEHOLDER).set_cpu_request("2").set_memory_request("4Gi")
        if not full:
            return
        task.set_cpu_request("500m").set_cpu_limit("8").set_memory_request("16Gi").set_memory_limit("32Gi")
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
        task.set_retry(3, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="3600s")
        kubernetes.use_secret_as_env(task, "llm", {"key": "OPENAI_API_KEY"})
        kubernetes.mount_pvc(task, "models", "/models")
        kubernetes.add_toleration(task, "gpu", "Equal", "yes", "NoSchedule")
        kubernetes.add_node_selector(task, "pool", "gpu")
        kubernetes.set_security_context(task, run_as_user=10001, run_as_group=10001, run_as_non_root=True)
        kubernetes.set_timeout(task, 7200)
        kubernetes.set_image_pull_secrets(task, ["registry"])
        kubernetes.set_image_pull_policy(task, "Always")

    return peer

for full in (False, True):
    compiler.Compiler().compile(pipeline(full), f"{sys.argv[1]}/{full}.yaml")
"""
FULL = """
workspace_size: 5Gi
storage_class: fast
task:
  memory: 1Gi
  tolerations: [{key: gpu, operator: Equal, value: "yes", effect: NoSchedule}]
steps:
  mine:
    {cpu: 500m, cpu_limit: 8, memory: 16Gi, memory_limit: 32Gi, gpus: 2, retries: 3, timeout_seconds: 7200,
     secrets: [{secret: llm, environment: {OPENAI_API_KEY: key}}], claims: [{claim: models, path: /models}],
     node_selector: {pool: gpu}, run_as_user: 10001, run_as_group: 10001, run_as_non_root: true,
     pull_secrets: [registry], pull_policy: Always}
"""
#: Numbers that KFP's compiler writes beside the texts, for servers before 2.4.
OLD = {"cpuLimit", "cpuRequest", "memoryLimit", "memoryRequest", "count", "type"}


def _load_all(text):
    return yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def without_old(value):
    if isinstance(value, dict):
        return {name: without_old(one) for name, one in value.items() if name not in OLD or isinstance(one, dict)}
    return [without_old(one) for one in value] if isinstance(value, list) else value


def test_settings_give_a_step_what_the_compiler_would_have_given_it(tmp_path):
    (tmp_path / "peer.py").write_text(PEER)  # a file: kfp reads a component's source
    subprocess.run([sys.executable, tmp_path / "peer.py", tmp_path], check=True, capture_output=True)
    bare, full = (list(_load_all((tmp_path / f"{name}.yaml").read_text())) for name in (False, True))
    assert bare != full
    given(bare[0], bare[1], KubeflowSettings.model_validate(yaml.safe_load(FULL)))
    assert without_old(bare) == without_old(full)


@pytest.mark.parametrize("name", pipelines())
def test_without_settings_a_pipeline_is_uploaded_as_it_was_compiled(name):
    assert list(_load_all(package(name, KubeflowSettings()).text)) == list(
        _load_all((COMPILED / f"{name}.yaml").read_text())
    )


def test_a_version_is_named_by_its_content():
    one, same = (package("evolve", KubeflowSettings()) for _ in range(2))
    other = package("evolve", KubeflowSettings(task=TaskSettings(retries=1)))
    assert one.version == same.version != other.version


def test_images_are_replaced_by_role_and_a_digest_may_be_asked_for():
    digest = f"@sha256:{'0' * 64}"
    images = {name: f"registry.example.org/{name}{digest}" for name in ("data", "train", "judge")}
    text = package("evolve", KubeflowSettings(images=images, digests_only=True)).text
    assert "ghcr.io" not in text
    assert {f"registry.example.org/{name}{digest}" for name in images} == {
        line.split("image: ")[1] for line in text.splitlines() if " image: " in line
    }
    del images["judge"]
    with pytest.raises(UserError, match=r"serm-judge:\S+ is not pinned by digest"):
        package("evolve", KubeflowSettings(images=images, digests_only=True))


def test_a_step_s_own_settings_go_before_those_of_all_and_add_to_their_lists():
    tolerations = [{"key": "spot"}]
    given_to = KubeflowSettings.model_validate(
        {
            "task": {"memory": "2Gi", "retries": 2, "tolerations": tolerations, "node_selector": {"zone": "a"}},
            "steps": {"train": {"memory": "9Gi", "tolerations": [{"key": "gpu"}], "node_selector": {"pool": "gpu"}}},
        }
    )
    train, mine = given_to.of("train"), given_to.of("mine")
    assert (train.memory, train.retries, mine.memory) == ("9Gi", 2, "2Gi")
    assert [one.key for one in train.tolerations] == ["spot", "gpu"]
    assert train.node_selector == {"zone": "a", "pool": "gpu"}
    assert mine == given_to.task


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("steps: {trian: {cpu: '1'}}", "'trian' is no step of a pipeline; there are "),
        ("task: {memory: lots}", "kubeflow.task.memory"),
        ("task: {cpu: fast}", "kubeflow.task.cpu"),
        ("task: {secrets: [{secret: llm, environment: {'a b': key}}]}", "environment"),
        ("task: {tolerations: [{key: a, operator: Equal}]}", "needs a key and a value"),
        ("host: kfp.example.org", "kubeflow.host"),
        ("token: hunter2", "kubeflow.token"),
    ],
)
def test_a_mistake_in_the_section_is_named(text, complaint):
    cycle = 'cycle: {number: 1, start: "2017-01-01T00:00:00Z", end: "2018-01-01T00:00:00Z"}\n'
    with pytest.raises(UserError) as error:
        package("evolve", settings.parse(f"{cycle}kubeflow: {{{text}}}").kubeflow)
    assert complaint in str(error.value)
