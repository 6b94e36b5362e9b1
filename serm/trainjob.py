"""The train step as a Kubeflow Trainer job: the same command, under torchrun, on the cluster's own machines."""

from __future__ import annotations

from typing import Any

from serm.settings import Settings

#: The TrainingRuntime that gives the job its image and the workspace (manifests/base/trainingruntime.yaml).
RUNTIME = "serm-train"


def train_job(settings: Settings) -> dict[str, Any]:
    """Return the TrainJob (trainer.kubeflow.org/v1alpha1) that runs ``serm train`` for the settings' cycle.

    Its processes share each batch out among them, so their number changes the time and not the model's maths. Kubeflow
    Trainer (2.0 or later) tells torchrun the number of nodes and processes through PET_* variables.
    """
    job = settings.training.job
    resources = {"cpu": job.cpu, "memory": job.memory}
    if job.gpus:
        resources["nvidia.com/gpu"] = str(job.gpus)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": f"{RUNTIME}-{settings.cycle.name}",
            "namespace": settings.serving.namespace,
            "labels": {"app.kubernetes.io/part-of": "serm"},
        },
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": RUNTIME},
            "trainer": {
                "command": ["torchrun", "--no-python", "serm", "train"],
                "numNodes": job.nodes,
                "numProcPerNode": job.processes_per_node,
                "resourcesPerNode": {"requests": dict(resources), "limits": dict(resources)},
            },
        },
    }
