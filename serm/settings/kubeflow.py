"""The section ``kubeflow`` of params.yaml: where pipelines run, and what the cluster gives to each step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from serm.settings.section import Section


def _text(value: Any) -> Any:
    """YAML reads ``cpu: 4`` as a number."""
    return str(value) if type(value) in (int, float) else value


Cpu = Annotated[str, BeforeValidator(_text), Field(pattern=r"^[0-9]+(\.[0-9]+|m)?$")]
"""As Kubernetes counts: cores, or thousandths with ``m``."""
Memory = Annotated[str, BeforeValidator(_text), Field(pattern=r"^[0-9]+(\.[0-9]+)?([KMGTPE]i?)?$")]
"""As Kubernetes counts: bytes, ``512Mi``, ``16Gi``."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$")]
"""Of a Kubernetes object."""
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Key = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]
Label = Annotated[str, Field(pattern=r"^[-._/a-zA-Z0-9]{1,317}$")]
MountPath = Annotated[str, Field(pattern=r"^/[^:\s]{1,1023}$")]
Image = Annotated[str, Field(pattern=r"^[a-z0-9][-._:/@a-zA-Z0-9]{0,511}$")]
UserId = Annotated[int, Field(ge=0, le=2**31 - 1)]


_Whole = Annotated[int, Field(ge=-1_000_000_000, le=1_000_000_000)]
_Number = Annotated[float, Field(ge=-1_000_000_000, le=1_000_000_000)]


class SecretSettings(Section):
    """A Kubernetes Secret whose values a step finds in its environment."""

    secret: Name
    """Its name."""
    environment: Annotated[dict[Variable, Key], Field(min_length=1)]
    """Variable -> the Secret's key: ``{OPENAI_API_KEY: key}``."""


class ClaimSettings(Section):
    """A PersistentVolumeClaim that a step finds as a directory."""

    claim: Name
    """Its name."""
    path: MountPath
    """Where the step finds it."""


class TolerationSettings(Section):
    """A taint that a step's pod may stand."""

    key: Label | None = None
    """None: every taint."""
    operator: Literal["Equal", "Exists"] = "Exists"
    """Whether the taint needs ``value``, or any will do."""
    value: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]{0,63}$")] | None = None
    """The taint's value, for ``Equal``."""
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None
    """None: every effect."""

    @model_validator(mode="after")
    def _whole(self) -> TolerationSettings:
        if self.operator == "Equal" and (self.key is None or self.value is None):
            raise ValueError("a toleration with the operator Equal needs a key and a value")
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("a toleration with the operator Exists takes no value; write operator: Equal")
        return self


class TaskSettings(Section):
    """What the cluster gives to a step; what is left out stays as the pipeline has it."""

    cpu: Cpu | None = None
    """Asked for; a step may use more, up to ``cpu_limit``."""
    cpu_limit: Cpu | None = None
    """Cores that it may use at most."""
    memory: Memory | None = None
    """Asked for; a step may use more, up to ``memory_limit``."""
    memory_limit: Memory | None = None
    """A step that takes more is killed, and tried again as ``retries`` says."""
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    """GPUs of its pod."""
    gpu_type: Annotated[str, Field(pattern=r"^[-.a-z0-9]{1,253}/[-.a-zA-Z0-9]{1,63}$")] = "nvidia.com/gpu"
    """The resource by which the cluster counts ``gpus``."""
    timeout_seconds: Annotated[int, Field(ge=1, le=2_592_000)] | None = None
    """After which a pod is killed; each try has as long."""
    retries: Annotated[int, Field(ge=0, le=20)] | None = None
    """Tries after the first, in new pods; mine and train go on from what is kept on the run's volume."""
    backoff_seconds: Annotated[int, Field(ge=0, le=86_400)] = 60
    """Before the first of them; before each further one twice as long, an hour at most."""
    node_selector: dict[Label, str] = Field(default={})
    """Labels of the nodes that it may run on."""
    tolerations: tuple[TolerationSettings, ...] = ()
    """Taints that its pod may stand."""
    secrets: tuple[SecretSettings, ...] = ()
    """Secrets in its environment, such as a judge's key or the object store's."""
    claims: tuple[ClaimSettings, ...] = ()
    """Volumes that it finds as directories."""
    run_as_user: UserId | None = None
    """The user's number in its container; else the image's own."""
    run_as_group: UserId | None = None
    """The group's number."""
    run_as_non_root: bool = False
    """Whether Kubernetes refuses to start the container as root. Of the rest KFP drops all capabilities by itself."""
    pull_secrets: tuple[Name, ...] = ()
    """Secrets of the registries that the images come from."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; else Kubernetes' own rule."""


class KubeflowSettings(Section):
    """`serm submit`: Kubeflow Pipelines, what it is given, and what it gives to the steps. No secret stands here."""

    host: Annotated[str, Field(pattern=r"^(https?://[^\s]{1,2048})?$")] = ""
    """The URL of KFP's API, such as ``https://kubeflow.example.org/pipeline``; the option ``--host`` goes before it."""
    token_file: str = "/var/run/secrets/kubeflow/pipelines/token"
    """A mounted file with the bearer token, read anew for each call; the environment variable SERM_KFP_TOKEN goes
    before it. Without both, no token is sent."""
    ca_file: str = ""
    """A PEM file of the authorities that signed KFP's certificate; empty: those of the system."""
    namespace: Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$")] = ""
    """The profile's namespace, where KFP serves several users; empty where it serves one."""
    experiment: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,126}[a-z0-9])?$")] = "serm"
    """KFP's experiment that the runs are put into; it is made where there is none."""
    service_account: Annotated[str, Field(pattern=r"^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)?$")] = ""
    """Of the runs; empty: KFP's own."""
    parameters: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,63}$")], str | bool | _Whole | _Number] = Field(
        default={}
    )
    """Of the pipelines: name -> value; each pipeline takes those that it knows, ``--set`` goes before them."""
    images: dict[Literal["data", "train", "judge", "serve"], Image] = Field(default={})
    """The images in the place of SERM's own."""
    digests_only: bool = False
    """Refuse images that are not pinned by digest (``@sha256:...``): KFP's cache takes an image's name for its
    content."""
    workspace_size: Memory = "20Gi"
    """Of the volume that a run's steps share: the repository's clone, and what killed steps go on from."""
    storage_class: Annotated[str, Field(pattern=r"^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?)?$")] = ""
    """Of that volume; empty: the cluster's default."""
    task: TaskSettings = TaskSettings()
    """Of every step."""
    steps: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,63}$")], TaskSettings] = Field(default={})
    """Of one step, by its name; it goes before ``task``, and adds to its lists."""

    def of(self, step: str) -> TaskSettings:
        """Return what ``step`` is given: its own settings over those of every step, its lists beside theirs."""
        if step not in self.steps:
            return self.task
        own = self.steps[step]
        merged = {name: getattr(own, name) for name in own.model_fields_set}
        for name in ("tolerations", "secrets", "claims", "pull_secrets"):
            merged[name] = (*getattr(self.task, name), *getattr(own, name))
        merged["node_selector"] = {**self.task.node_selector, **own.node_selector}
        return self.task.model_copy(update=merged)
