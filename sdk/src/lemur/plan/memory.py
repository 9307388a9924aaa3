"""What one device must hold in training: weights, gradients, optimizer, activations, logits.

States follow Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054); activations follow the accounting of Korthikanti
et al. 2022 (arXiv 2205.05198), redone for the Llama layer of `transformers`: grouped queries, gated feed-forward,
norms computed in float32, and attention that keeps no scores (flash attention).

The parts are added up, as if all were largest at the same moment. Held against the allocator's peak in real steps
of a small model with accumulated gradients, the sum is 1 to 2 % low without checkpointing (the last norm and the
rotary tables are not counted), which the reserve covers, and 9 to 30 % high with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, computed_field

from lemur.model_size import count_parameters
from lemur.recipe import Architecture

RESERVE_SHARE = 0.1
"""Share of a device left free for its context, communication buffers and fragmentation; a rule of thumb."""
LOGITS_BYTES = 12
"""Bytes for each token and entry of the vocabulary: log-probabilities, the gradient of the loss and that of the
softmax, each in float32."""
FOUR_BITS_BYTES = 4.127 / 8
"""Bytes of a weight in NF4: four bits, and 0.127 for the doubly quantized scale of each block of 64 (Dettmers et al.
2023, arXiv 2305.14314, section 3)."""
_MOST_DEVICES = 1 << 20


class Layout(NamedTuple):
    """Bytes that a parameter and an activation take under one way to train."""

    description: str
    """The way, in words."""
    weights: int
    """Bytes of a weight."""
    copies: int
    """Bytes of the lower-precision copy that automatic casting keeps of a weight."""
    gradients: int
    """Bytes of a gradient."""
    optimizer: int
    """Bytes of Adam's two moments, and of the float32 weights where the weights themselves are lower."""
    residual: int
    """Bytes of an element of the residual stream, which is what checkpointing keeps."""
    hidden: int
    """Bytes kept in a layer for each token and unit of the hidden size."""
    element: int
    """Bytes of an element of keys, values and the feed-forward's inside."""
    gathered: int
    """Bytes of a weight that is gathered because weights are divided."""


FLOAT32 = Layout("float32 throughout", 4, 0, 4, 8, residual=4, hidden=32, element=4, gathered=4)
CAST = Layout(
    "float32 weights, cast to bfloat16 for arithmetic", 4, 2, 4, 8, residual=4, hidden=30, element=2, gathered=4
)
GATHERED = Layout(
    "float32 weights, gathered in bfloat16 layer by layer", 4, 0, 4, 8, residual=2, hidden=20, element=2, gathered=2
)
BFLOAT16 = Layout(
    "bfloat16 weights, float32 copy in the optimizer", 2, 0, 4, 12, residual=2, hidden=20, element=2, gathered=2
)
LAYOUTS = {"cast": CAST, "gathered": GATHERED, "kept": BFLOAT16}
"""By how an engine's weights become bfloat16; each adds gradients up in float32."""
"""`hidden` is what autograd keeps in a layer of hidden size h. Twice each: the norm's input (float32), its
normalised value and the input of the linear layers after it; once each: queries and attention's output. That is
2 x 4h + 2 x 4h + 2 x 4h + 2 x 4h in float32 and 2 x 4h + 2 x 2h + 2 x 2h + 2 x 2h in bfloat16. Casting keeps the
norms in float32, and one bfloat16 input for each of five linear layers: 2 x 4h + 2 x 4h + 5 x 2h + 2 x 2h."""


class Load(NamedTuple):
    """What the devices are asked to hold."""

    architecture: Architecture
    """Sizes of the model."""
    vocab_size: int
    """Entries of its vocabulary."""
    precision: Literal["float32", "bfloat16", "float8"]
    """Arithmetic of the passes."""
    zero_stage: int
    """What is divided over the devices, in ZeRO's count."""
    num_devices: int
    """Devices."""
    num_sequences: int
    """Sequences one device handles at a time."""
    sequence_length: int
    """Tokens of the longest of them."""
    activation_checkpointing: bool
    """Whether activations are recomputed."""
    num_adapter_parameters: int | None = None
    """Parameters of low-rank adapters; `None` where every weight is trained."""
    lower_precision: Literal["cast", "gathered", "kept"] = "kept"
    """How weights become bfloat16."""
    offloads: Literal["none", "optimizer", "all"] = "none"
    """What is in main memory and not on the device."""
    in_four_bits: bool = False
    """Whether the frozen weights of linear layers are quantized."""

    @property
    def layout(self) -> Layout:
        """How parameters and activations are stored; float8 is for products alone, and what is kept is bfloat16."""
        return FLOAT32 if self.precision == "float32" else LAYOUTS[self.lower_precision]


class MemoryPlan(BaseModel):
    """Bytes on one device at the worst moment of a step."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    layout: str
    """How weights and activations are stored."""
    weights_bytes: int
    """Weights, a cast copy of them included."""
    gradients_bytes: int
    """Gradients."""
    optimizer_bytes: int
    """Adam's moments and, with bfloat16 weights, their float32 copy."""
    gathered_bytes: int
    """With divided weights: the layer at work, the next one on its way, and the embedding."""
    activations_bytes: int
    """What the backward pass needs of the forward pass."""
    logits_bytes: int
    """Log-probabilities and their gradients."""
    reserve_bytes: int
    """Left free."""
    limit_bytes: int
    """Memory of the device."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def needed_bytes(self) -> int:
        """All of it, the reserve included."""
        states = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return states + self.gathered_bytes + self.activations_bytes + self.logits_bytes + self.reserve_bytes

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fits(self) -> bool:
        """Whether the device has as much."""
        return self.needed_bytes <= self.limit_bytes


def layer_activation_bytes(architecture: Architecture, layout: Layout, num_tokens: int) -> int:
    """Returns what autograd keeps of one layer's forward pass.

    For each token: `hidden` x h for the norms, projections and attention's output, keys and values, four tensors
    inside the feed-forward (gate, up, activation and product), the softmax's sum for each head and the two norms'
    scales in float32. Biases and dropout there are none.

    Args:
        architecture: Sizes of the model.
        layout: How activations are stored.
        num_tokens: Tokens on the device at a time.
    """
    kv_size = architecture.hidden_size // architecture.num_heads * architecture.num_kv_heads
    elements = 2 * kv_size + 4 * architecture.intermediate_size
    scales = 4 * (architecture.num_heads + 2)
    return num_tokens * (layout.hidden * architecture.hidden_size + layout.element * elements + scales)


def activation_bytes(load: Load) -> int:
    """Returns what is kept of a whole forward pass.

    With checkpointing that is each layer's input, and one layer in full while it is recomputed.
    """
    num_tokens = load.num_sequences * load.sequence_length
    layer = layer_activation_bytes(load.architecture, load.layout, num_tokens)
    if not load.activation_checkpointing:
        return load.architecture.num_layers * layer
    inputs = load.architecture.num_layers * num_tokens * load.layout.residual * load.architecture.hidden_size
    return inputs + layer


def plan_memory(load: Load, limit_bytes: int) -> MemoryPlan:
    """Returns what one device must hold.

    Args:
        load: What is asked.
        limit_bytes: Memory of the device.
    """
    layout, parameters = load.layout, count_parameters(load.architecture, load.vocab_size)
    adapters = load.num_adapter_parameters
    trained = parameters.total if adapters is None else adapters
    # Casting keeps no copy of frozen weights: they are cast anew each time.
    kept = trained if adapters is None else parameters.total + adapters
    divided = [load.num_devices if load.zero_stage >= stage else 1 for stage in (3, 2, 1)]
    weights_bytes = -(-kept * layout.weights // divided[0]) + layout.copies * trained - _saved_by_four_bits(load)
    return MemoryPlan(
        layout=layout.description,
        weights_bytes=weights_bytes * (load.offloads != "all"),
        gradients_bytes=-(-trained * layout.gradients // divided[1]) * (load.offloads != "all"),
        optimizer_bytes=-(-trained * layout.optimizer // divided[2]) * (load.offloads == "none"),
        gathered_bytes=layout.gathered * (2 * parameters.per_layer + parameters.embedding) * (load.zero_stage == 3),
        activations_bytes=activation_bytes(load),
        logits_bytes=LOGITS_BYTES * load.num_sequences * load.sequence_length * load.vocab_size,
        reserve_bytes=int(RESERVE_SHARE * limit_bytes),
        limit_bytes=limit_bytes,
    )


def _saved_by_four_bits(load: Load) -> int:
    """Returns what quantizing the linear layers of the decoder saves; embedding, head and norms stay as they are."""
    if not load.in_four_bits:
        return 0
    parameters = count_parameters(load.architecture, load.vocab_size)
    linear = parameters.num_layers * (parameters.attention + parameters.feed_forward)
    return int(linear * (load.layout.weights - FOUR_BITS_BYTES))


def what_would_fit(load: Load, limit_bytes: int, *, section: str) -> str:
    """Returns the settings that would make a load fit, in words for the user.

    Args:
        load: A load that does not fit.
        limit_bytes: Memory of the device.
        section: Section of the stage, `pretrain` or `finetune`.
    """

    def fits(*changes: str) -> bool:
        fields = {name: value for words in changes for name, value in known[words].items()}
        return plan_memory(load._replace(**fields), limit_bytes).fits

    known = dict(_changes(load, section))
    alone = [words for words in known if fits(words)]
    if alone:
        return f"{'any one of these' if len(alone) > 1 else 'this'} makes it fit: {'; '.join(alone)}"
    # The last ZeRO stage comes last, so it is the one that counts; then what is not needed is left out again.
    together = list(known)
    if fits(*together):
        for words in known:
            rest = [other for other in together if other != words]
            together = rest if fits(*rest) else together
        return f"these together make it fit: {'; '.join(together)}"
    everything = {name: value for fields in known.values() for name, value in fields.items()}
    return _devices_needed(load._replace(**everything), limit_bytes, section)


def _changes(load: Load, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each setting that saves memory, in words, with the fields of the load that it changes."""
    if load.num_devices > 1:
        for stage in range(load.zero_stage + 1, 4):
            words = f"{section}.engine: {{kind: deepspeed, zero_stage: {stage}}}"
            yield words, {"zero_stage": stage, "lower_precision": "kept"}
    if load.num_sequences > 1:
        key = "micro_batch_sequences" if section == "pretrain" else "micro_batch_dialogues"
        yield f"{section}.{key}: 1", {"num_sequences": 1}
    if not load.activation_checkpointing:
        yield f"{section}.activation_checkpointing: true", {"activation_checkpointing": True}


def _devices_needed(load: Load, limit_bytes: int, section: str) -> str:
    """Says from how many devices on a load fits that already uses every other means."""
    num_devices = 2
    while num_devices <= _MOST_DEVICES:
        if plan_memory(load._replace(zero_stage=3, num_devices=num_devices), limit_bytes).fits:
            return (
                f"{num_devices} devices (hardware.num_nodes x devices_per_node) hold it with {section}.engine: "
                f"{{kind: deepspeed, zero_stage: 3}}, one sequence at a time and {section}.activation_checkpointing: "
                "true; or take devices with more memory"
            )
        num_devices *= 2
    shorter = "data.sequence_length" if section == "pretrain" else "finetune.max_length"
    return f"no number of devices is enough: lower {shorter}, make the model smaller, or take devices with more memory"
