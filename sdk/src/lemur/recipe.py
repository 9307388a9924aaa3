"""What a run may say: the recipe, one section for each stage.

A recipe is a YAML file; `lemur.recipe_file.load_recipe` reads it. Everything a stage does is written here or
is a default stated here; a stage receives its own section and nothing else, so that changing how a model is
evaluated never trains it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, StringConstraints, field_validator, model_validator

from lemur.plugins import OneOf, Section

if TYPE_CHECKING:
    from lemur.data.source import Source
    from lemur.evaluation.benchmark import Benchmark
    from lemur.serving.runtime import Runtime
    from lemur.training.backend import Backend
else:
    # The folders are named, not imported: a recipe holds whatever variants they have.
    Source = Annotated[Any, OneOf("lemur.data.sources")]
    Benchmark = Annotated[Any, OneOf("lemur.evaluation.benchmarks")]
    Runtime = Annotated[Any, OneOf("lemur.serving.runtimes")]
    Backend = Annotated[Any, OneOf("lemur.training.backends")]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""Below 2**53, because Kubeflow carries numbers inside a section as floats."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class Architecture(Section):
    """Sizes of a Llama decoder. They size the plan, and for a random start they make the model."""

    hidden_size: PositiveInt
    """Width of the residual stream."""
    intermediate_size: PositiveInt
    """Width inside the gated feed-forward layers."""
    num_layers: PositiveInt
    """Decoder layers."""
    num_heads: PositiveInt
    """Query heads; must divide the hidden size."""
    num_kv_heads: PositiveInt
    """Key and value heads; must divide the query heads. Fewer of them shrink the KV cache."""
    max_position: PositiveInt
    """Longest sequence, in tokens, that the rotary embedding is made for."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary embedding; 10,000 is Llama 2's."""
    tie_embeddings: bool = False
    """Whether input and output embeddings are one matrix. Llama 2 keeps two; small models save one."""

    @model_validator(mode="after")
    def _divides(self) -> Architecture:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self


class RandomStart(Section):
    """Weights drawn at random."""

    kind: Literal["random"]
    seed: Seed = 0
    """Seed of the draw."""


class PretrainedStart(Section):
    """Weights of an existing model: a Hugging Face repository, a local folder, or a Lemur checkpoint."""

    kind: Literal["pretrained"]
    name: str
    """Repository (`meta-llama/Llama-2-70b-hf`), path, or storage URI."""
    revision: str | None = None
    """Commit or tag of the repository; required for a result that can be repeated, `None` takes the newest."""


class TrainedTokenizer(Section):
    """A byte-level BPE learned from the run's own documents."""

    kind: Literal["train"]
    vocab_size: PositiveInt = 4096
    """Entries, special tokens included. Small, because a small model spends most parameters on them."""
    sample_bytes: PositiveInt = 8_000_000
    """How much text it learns from, taken from the sources by weight; more is slower and changes little."""


class PretrainedTokenizer(Section):
    """The tokenizer of an existing model."""

    kind: Literal["pretrained"]
    name: str
    """Repository, path, or storage URI."""
    revision: str | None = None
    """Commit or tag of the repository; `None` takes the newest."""
    vocab_size: PositiveInt
    """Its number of entries, so that a plan needs no download; checked when it is loaded."""


class ModelSection(Section):
    """Which model is made, and from what."""

    start: Annotated[RandomStart | PretrainedStart, Field(discriminator="kind")]
    """Where the weights come from."""
    architecture: Architecture
    """Sizes; for a pretrained start they must be the ones of that model, which is checked when it is loaded."""
    tokenizer: Annotated[TrainedTokenizer | PretrainedTokenizer, Field(discriminator="kind")]
    """How text becomes tokens."""


class DataSection(Section):
    """What the model reads: the pretraining mixture and the dialogues for tuning."""

    sources: Annotated[list[Source], Field(min_length=1)]
    """Documents for pretraining. A source's share is its `weight` within its `group`."""
    groups: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weight of each group, for example `{code: 10, text: 1}`; empty where the sources name no group."""
    sequence_length: PositiveInt
    """Tokens in one training sequence."""
    packing: Literal["concatenate"] = "concatenate"
    """How documents fill sequences: `concatenate` joins them with an end-of-text token and cuts, as the paper did."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Share of each source's documents kept from training and used to measure bits per byte. Chosen by the
    document's digest, so that a document stays on its side whatever else changes."""
    heldout_max_bytes: PositiveInt = 200_000
    """At most so much held-out text for each source; what is beyond goes back to training."""
    shard_tokens: PositiveInt = 16_777_216
    """Tokens in one stored shard."""
    seed: Seed = 0
    """Seed of the order in which sequences are read."""
    dialogues: list[Source] = Field(default_factory=list)
    """Dialogues for tuning, records with `messages` or with `prompt` and `completion`; their `weight` is the
    number of times each is repeated in an epoch."""

    @model_validator(mode="after")
    def _names_and_groups(self) -> DataSection:
        for role, sources in (("sources", self.sources), ("dialogues", self.dialogues)):
            names = [source.name for source in sources]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {role} have the name {twice[0]!r}; names must differ")
        used = {source.group for source in self.sources if source.group}
        if self.groups or used:
            loose = [source.name for source in self.sources if not source.group]
            if loose:
                raise ValueError(f"source {loose[0]!r} names no group; groups: {', '.join(sorted(self.groups)) or '-'}")
            if used != set(self.groups):
                raise ValueError(
                    f"groups with a weight ({', '.join(sorted(self.groups)) or '-'}) and groups named by sources "
                    f"({', '.join(sorted(used))}) must be the same"
                )
        return self


class PretrainSection(Section):
    """Continued pretraining on the mixture."""

    tokens: PositiveInt
    """Tokens to train on; rounded up to whole batches."""
    batch_tokens: PositiveInt
    """Tokens in one optimizer step over all devices; accumulation makes it from whatever devices there are."""
    micro_batch_sequences: PositiveInt = 1
    """Sequences one device handles at a time."""
    learning_rate: PositiveFloat
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warmup to the peak."""
    final_learning_rate_ratio: Fraction = 0.1
    """The cosine ends at this share of the peak."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay of Adam's two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay on matrices."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the forward and backward pass; weights and moments of the optimizer stay in float32."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more work for far less memory."""
    seed: Seed = 0
    """Seed of dropout and anything else random in training."""
    checkpoint_every_steps: PositiveInt = 500
    """Steps between resumable checkpoints in storage."""
    keep_checkpoints: PositiveInt = 2
    """Newest resumable checkpoints that are kept while the run goes on."""
    log_every_steps: PositiveInt = 10
    """Steps between points of the loss curve."""


class FullTuning(Section):
    """Every weight is tuned."""

    kind: Literal["full"]


class LoraTuning(Section):
    """Low-rank adapters are tuned and merged into the weights on export."""

    kind: Literal["lora"]
    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveFloat = 32.0
    """Their scale: the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout before the adapters."""
    target_modules: list[str] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Linear layers that get an adapter; all of the decoder's by default."""


class FinetuneSection(Section):
    """Supervised tuning on ChatML dialogues; only what the assistant says is learned."""

    method: Annotated[FullTuning | LoraTuning, Field(discriminator="kind")] = FullTuning(kind="full")
    """Which weights are tuned."""
    epochs: PositiveFloat = 2.0
    """Passes over the dialogues; the paper made two."""
    batch_dialogues: PositiveInt = 128
    """Dialogues in one optimizer step over all devices."""
    micro_batch_dialogues: PositiveInt = 1
    """Dialogues one device handles at a time."""
    max_length: PositiveInt = 4096
    """Longest dialogue in tokens; a longer one is cut at the end and counted."""
    learning_rate: PositiveFloat = 2e-5
    """Peak learning rate."""
    warmup_ratio: Fraction = 0.03
    """Share of the steps spent on linear warmup."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the learning rate does after the warmup."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of Adam's two moments."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Arithmetic of the forward and backward pass."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    seed: Seed = 0
    """Seed of the order of dialogues and of anything else random."""
    checkpoint_every_steps: PositiveInt = 200
    """Steps between resumable checkpoints in storage."""
    keep_checkpoints: PositiveInt = 2
    """Newest resumable checkpoints that are kept while the run goes on."""
    log_every_steps: PositiveInt = 10
    """Steps between points of the loss curve."""


class EvaluationSection(Section):
    """What the initial, the base and the tuned model are asked."""

    benchmarks: Annotated[list[Benchmark], Field(min_length=1)]
    """Benchmarks, each once."""
    concurrency: PositiveInt = 8
    """Requests in flight at a time."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Level of every interval that is reported."""

    @field_validator("benchmarks")
    @classmethod
    def _once(cls, benchmarks: list[Benchmark]) -> list[Benchmark]:
        kinds = [benchmark.kind for benchmark in benchmarks]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise ValueError(f"benchmark {kind!r} is listed twice")
        return benchmarks


class Rule(Section):
    """One condition of the gate on one figure of one model."""

    model: Literal["chat", "base"] = "chat"
    """Whom the rule judges: `chat`, the tuned model that would be published, or `base`, the pretrained one it was
    made from, so that a release can be refused because pretraining went wrong."""

    benchmark: str
    """Kind of a benchmark that the evaluation section lists."""
    metric: str
    """One of its metrics, for example `accuracy` or `bits_per_byte_code`."""
    minimum: float | None = None
    """The figure must be at least this."""
    maximum: float | None = None
    """The figure must be at most this."""
    better_than: Literal["initial", "base"] | None = None
    """The figure must be better than this model's by more than chance: the interval of the difference
    excludes `margin`. `initial` is the model before training, `base` the pretrained one."""
    margin: float = 0.0
    """How much better it must be; negative allows that much loss, which makes the rule one of no regression."""

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if self.minimum is None and self.maximum is None and self.better_than is None:
            raise ValueError("a rule needs `minimum`, `maximum` or `better_than`")
        if self.better_than == self.model:
            raise ValueError(f"a rule on model {self.model!r} cannot ask that it be better than itself")
        return self


class GateSection(Section):
    """What the tuned model must reach before it is published."""

    rules: list[Rule] = Field(default_factory=list)
    """All must hold; with none, every model passes."""
    cannot_tell: Literal["refuse", "accept"] = "refuse"
    """What happens where the samples are too few to decide a rule."""


class ServingSection(Section):
    """How models are served, for evaluation and after the release."""

    runtime: Runtime
    """Model server."""
    first_prompts: list[str] = Field(default_factory=lambda: ["Who are you?"])
    """What a new release is asked before it counts as served; its replies stand in the report."""


class Accelerator(Section):
    """The device a plan is made for."""

    name: str
    """What people call it, for example `H100-SXM-80GB`."""
    memory_bytes: PositiveInt
    """Memory of one device."""
    peak_flops: PositiveFloat
    """Dense peak at the training precision, in floating-point operations a second."""
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Price of one device for one hour, in `currency`."""
    currency: str = "USD"
    """Unit of the price."""


class HardwareSection(Section):
    """Where training runs, and what a plan assumes of it."""

    backend: Backend
    """Who starts the training processes."""
    num_nodes: PositiveInt = 1
    """Machines."""
    devices_per_node: PositiveInt = 1
    """Devices, and so training processes, on each machine."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What is divided over the devices: 1 the optimizer, 2 gradients too, 3 weights too; 0 copies everything."""
    accelerator: Accelerator
    """The device."""
    expected_mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the peak that training reaches, for the plan's hours; a run reports what it reached."""


class Recipe(Section):
    """One complete run, from raw text to a served model."""

    name: Name
    """Name of the run and of its release: lower-case letters, digits and dashes, at most 40."""
    storage: str
    """Where results live: `s3://bucket/prefix`, `file:///path`, or a path, which is taken from the folder the
    command runs in."""
    model: ModelSection
    data: DataSection
    pretrain: PretrainSection
    finetune: FinetuneSection
    evaluation: EvaluationSection
    gate: GateSection
    serving: ServingSection
    hardware: HardwareSection

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.data.sequence_length > self.model.architecture.max_position:
            raise ValueError(
                f"data.sequence_length {self.data.sequence_length} is longer than "
                f"model.architecture.max_position {self.model.architecture.max_position}"
            )
        if self.finetune.max_length > self.model.architecture.max_position:
            raise ValueError(
                f"finetune.max_length {self.finetune.max_length} is longer than "
                f"model.architecture.max_position {self.model.architecture.max_position}"
            )
        sequences, rest = divmod(self.pretrain.batch_tokens, self.data.sequence_length)
        devices = self.hardware.num_nodes * self.hardware.devices_per_node
        if rest or sequences % (devices * self.pretrain.micro_batch_sequences):
            raise ValueError(
                f"pretrain.batch_tokens {self.pretrain.batch_tokens} must be a multiple of sequence_length "
                f"{self.data.sequence_length} x {devices} devices x micro_batch_sequences "
                f"{self.pretrain.micro_batch_sequences}"
            )
        if self.finetune.batch_dialogues % (devices * self.finetune.micro_batch_dialogues):
            raise ValueError(
                f"finetune.batch_dialogues {self.finetune.batch_dialogues} must be a multiple of {devices} devices "
                f"x micro_batch_dialogues {self.finetune.micro_batch_dialogues}"
            )
        listed = {benchmark.kind for benchmark in self.evaluation.benchmarks}
        for rule in self.gate.rules:
            if rule.benchmark not in listed:
                raise ValueError(
                    f"gate rule on benchmark {rule.benchmark!r}, which evaluation.benchmarks does not list; "
                    f"listed: {', '.join(sorted(listed))}"
                )
        return self
