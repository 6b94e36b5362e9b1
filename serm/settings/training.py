"""The section ``training`` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serm.settings.section import Amount, Count, Section, Seed, Share, Threads


class TrainJobSettings(Section):
    """What a Kubeflow TrainJob of the train step asks the cluster for."""

    nodes: Count = 1
    """Pods that train together."""
    processes_per_node: Count = 1
    """Processes that torchrun starts on a node; one a GPU where there are GPUs."""
    cpu: Annotated[str, Field(pattern=r"^[0-9]+m?$")] = "4"
    """Of a node, as Kubernetes counts: cores, or thousandths with ``m``."""
    memory: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]i$")] = "16Gi"
    """Of a pod, as Kubernetes writes it."""
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    """NVIDIA GPUs of a node."""


class TrainingSettings(Section):
    """Fine-tuning on seed, earlier and new judgments."""

    epochs: Count = 3
    """Passes of a challenger, which goes on from the champion. One is not enough: on all that was shown, three gain
    half as much again (docs/does-it-evolve.md)."""
    steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Steps of a challenger, however many pairs there are, in the place of ``epochs``; 0: as many as those take."""
    founding_epochs: Count = 3
    """Passes of the first champion over the seed. With too few, a challenger wins by the seed's further passes alone,
    whatever the new labels are worth (benchmarks/evolution.py has that control)."""
    batch_pairs: Count = 80
    """Pairs of a step, over all processes."""
    listwise: Literal["listnet", "lambda"] = "listnet"
    """The listwise loss: ListNet's top-one cross-entropy, or LambdaLoss with NDCG-Loss2++."""
    listwise_weight: Amount = 1.0
    """Of the listwise loss beside the grades' likelihood; 0 leaves it out."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """AdamW's, at its highest, after the warm-up."""
    head_learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    """Of what starts from nothing: the residual's head, alpha and the thresholds."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """AdamW's."""
    warmup_share: Share = 0.1
    """Of all steps, in which the learning rate rises from 0."""
    panel_weight: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Sample weight of a panel judgment beside a seed judgment; without a distribution, which says more, times its
    agreement."""
    shown_weight: Annotated[float, Field(ge=0, le=1)] = 0.7
    """The same of a pair that users alone judged; as ``panel_weight``, so that a query's pairs, mined or not, count
    alike in its list. 0 leaves them out."""
    champion_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """How far a trained challenger's weights are moved back to the champion's, in a straight line (WiSE-FT, Wortsman et
    al. 2022, arXiv 2109.01903): it costs some of the gain on served lists and wins more outside them. 0 leaves it where
    training ended."""
    new_weight: Amount = 1.0
    """Sample weight of this cycle's judgments, mined or shown, times their source's; 0 leaves them out."""
    earlier_weight: Amount = 1.0
    """The same of earlier cycles' judgments."""
    seed_weight: Amount = 1.0
    """The same of seed judgments."""
    anchors: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Pairs beside the judged ones that hold the model outside what users are shown: documents that nobody judged for a
    query, half of them near ones, on which it learns the champion's own distribution, and to rank the query's judged
    documents among them. At most four a judged pair; 0 for none. They cost more than half of what is gained on served
    lists, which whole lists of what was shown do not (docs/does-it-evolve.md)."""
    anchor_weight: Amount = 1.0
    """Sample weight of an anchor; 0 leaves them out."""
    controls: tuple[Literal["replay", "self-training"], ...] = ("replay", "self-training")
    """Models trained beside the challenger, from the same champion with as many passes: ``replay`` on seed and earlier
    judgments and the anchors, ``self-training`` on the challenger's pairs with the champion's own distributions in the
    place of this cycle's labels. What the challenger has over them, its labels brought. A pair takes as long in them as
    in the challenger."""
    max_pairs: Count = 34_000
    """Judged pairs in one training run: all new ones, then shown, earlier and seed ones in like parts, as whole queries
    drawn at random."""
    student_layers: Count = 1
    """Upper layers of a distilled student that read query and document together: what a request costs beyond the
    texts' own encoding."""
    distillation_epochs: Count = 3
    """Passes of a student over the mined pairs."""
    held_out_share: Share = 0.1
    """Seed queries that no cycle trains on; forgetting is measured on them."""
    patience: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Looks at held-out seed queries without a lower loss before training stops; the weights of the best look are
    kept. 0 trains to the end and keeps the last weights. The half of them that the temperature is fitted on is looked
    at, so the half that forgetting is measured on stays unseen."""
    watch_steps: Count = 25
    """Steps between two looks."""
    checkpoint_steps: Count = 100
    """Steps between two states on disk, from which a killed run goes on."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass instead of kept: less memory, more time, same bits."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """What is computed in; weights are kept in fp32."""
    threads: Threads = 2
    """CPU threads; another number gives other bits."""
    seed: Seed = 19
    """Of shuffles, LoRA's dropout and what is drawn for replay."""
    job: TrainJobSettings = TrainJobSettings()
