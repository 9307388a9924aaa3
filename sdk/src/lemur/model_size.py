"""How large a Llama decoder is, and how much arithmetic training it takes.

Shared by the plan, which says so before a run, and by whoever measures a run against its hardware: the
utilisation a run reports and the one a plan assumes are the same quotient.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, computed_field

from lemur.recipe import AdapterTuning, Architecture


class ParameterCount(BaseModel):
    """Parameters of a decoder, by where they are."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    embedding: int
    """Input embedding: vocabulary x hidden size."""
    attention: int
    """Query, key, value and output matrices of one layer."""
    feed_forward: int
    """Gate, up and down matrices of one layer."""
    layer_norms: int
    """The two norms of one layer."""
    num_layers: int
    """Layers."""
    final_norm: int
    """Norm after the last layer."""
    head: int
    """Output embedding; 0 where it is tied to the input's."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def per_layer(self) -> int:
        """Parameters of one layer."""
        return self.attention + self.feed_forward + self.layer_norms

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """All parameters, a tied matrix counted once."""
        return self.embedding + self.num_layers * self.per_layer + self.final_norm + self.head

    @computed_field  # type: ignore[prop-decorator]
    @property
    def multiplied(self) -> int:
        """Parameters that each token is multiplied with: layers' matrices and output embedding, no look-ups."""
        return self.num_layers * (self.attention + self.feed_forward) + (self.head or self.embedding)


def count_parameters(architecture: Architecture, vocab_size: int) -> ParameterCount:
    """Returns the exact parameters of a Llama decoder without biases.

    Args:
        architecture: Its sizes.
        vocab_size: Rows of each embedding.
    """
    hidden, inner = architecture.hidden_size, architecture.intermediate_size
    kv_size = hidden // architecture.num_heads * architecture.num_kv_heads
    return ParameterCount(
        embedding=vocab_size * hidden,
        attention=2 * hidden * hidden + 2 * hidden * kv_size,
        feed_forward=3 * hidden * inner,
        layer_norms=2 * hidden,
        num_layers=architecture.num_layers,
        final_norm=hidden,
        head=0 if architecture.tie_embeddings else vocab_size * hidden,
    )


def linear_shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """Returns input and output size of each linear layer of a decoder layer, by its name in `transformers`."""
    hidden, inner = architecture.hidden_size, architecture.intermediate_size
    kv_size = hidden // architecture.num_heads * architecture.num_kv_heads
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, kv_size),
        "v_proj": (hidden, kv_size),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def count_adapter_parameters(architecture: Architecture, tuning: AdapterTuning) -> int:
    """Returns the parameters of low-rank adapters: rank x (inputs + outputs) for each adapted layer.

    Names in `target_modules` that no linear layer has count nothing; the plan refuses them.
    """
    shapes = linear_shapes(architecture)
    adapted = [shapes[name] for name in set(tuning.target_modules) & set(shapes)]
    return architecture.num_layers * tuning.rank * sum(inputs + outputs for inputs, outputs in adapted)


def attention_flops_per_token(architecture: Architecture, sequence_length: float) -> float:
    """Returns what attention to the other tokens takes in training: 12 x layers x hidden size x length.

    Forward it is two products of 2 x length x hidden size for each layer, backward twice that (Chowdhery et al.
    2022, PaLM, appendix B). By that convention the causal mask is not counted, although a kernel that uses it
    does half; so utilisation can be compared with published figures.

    Args:
        architecture: Sizes of the decoder.
        sequence_length: Tokens that a token's sequence has.
    """
    return 12.0 * architecture.num_layers * architecture.hidden_size * sequence_length


def training_flops_per_token(
    architecture: Architecture, vocab_size: int, *, sequence_length: float, num_adapter_parameters: int | None = None
) -> float:
    """Returns the floating-point operations that training on one token takes.

    `6 N + 12 L h s` (PaLM, appendix B): 2 N forward, 2 N for the gradients of activations, 2 N for the gradients
    of weights, and attention. N are the parameters that are multiplied, so an untied input embedding, which is
    looked up, has no part. Recomputed activations do not count: they are a cost, no progress.

    Args:
        architecture: Sizes of the decoder.
        vocab_size: Rows of the embeddings.
        sequence_length: Tokens that a token's sequence has.
        num_adapter_parameters: With adapters, how many parameters they have; the frozen weights then need no
            gradient (4 N in place of 6 N). `None` where every weight is trained.
    """
    multiplied = count_parameters(architecture, vocab_size).multiplied
    attention = attention_flops_per_token(architecture, sequence_length)
    if num_adapter_parameters is None:
        return 6.0 * multiplied + attention
    return 4.0 * multiplied + 6.0 * num_adapter_parameters + attention
