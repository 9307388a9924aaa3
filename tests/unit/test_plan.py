"""The plan's arithmetic, held against transformers, autograd, torch's own counter and the papers' examples."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from lemur.errors import PlanError, RecipeError
from lemur.model_size import count_adapter_parameters, count_parameters, training_flops_per_token
from lemur.plan import Plan, check_plan, make_plan, render_plan
from lemur.plan.memory import BFLOAT16, CAST, FLOAT32, Layout, Load, layer_activation_bytes, plan_memory
from lemur.recipe import Architecture, LoraTuning, Recipe
from lemur.recipe_file import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
LLAMA_2_7B = Architecture(
    hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32, max_position=4096
)
LLAMA_2_70B = Architecture(
    hidden_size=8192, intermediate_size=28672, num_layers=80, num_heads=64, num_kv_heads=8, max_position=4096
)
SMALL = Architecture(hidden_size=96, intermediate_size=200, num_layers=3, num_heads=6, num_kv_heads=2, max_position=64)
TIED = SMALL.model_copy(update={"tie_embeddings": True})


def recipe(overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Returns a small recipe with one source of a million tokens, and these changes."""
    base = {
        "data.groups": {},
        "data.sources": [{"kind": "jsonl", "name": "code", "root": "no-such-file", "available_tokens": 1_000_000}],
        "data.dialogues": [
            {
                "kind": "jsonl",
                "name": "talk",
                "root": "no-such-file",
                "available_tokens": 50_000,
                "available_records": 500,
            }
        ],
        "data.heldout_fraction": 0,
        # Sizes that the expectations below were worked out for, whatever the quickstart's are.
        "model.architecture.hidden_size": 256,
        "model.architecture.intermediate_size": 704,
        "model.tokenizer.vocab_size": 4096,
        "pretrain.tokens": 600_000,
        "pretrain.precision": "float32",
        "finetune.epochs": 2,
        "finetune.batch_dialogues": 64,
        "finetune.micro_batch_dialogues": 64,
        "finetune.precision": "float32",
    }
    return load_recipe(RECIPE, {key: json.dumps(value) for key, value in {**base, **(overrides or {})}.items()})


def llama(architecture: Architecture, vocab_size: int, **options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(  # type: ignore[no-untyped-call]
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=architecture.hidden_size,
            intermediate_size=architecture.intermediate_size,
            num_hidden_layers=architecture.num_layers,
            num_attention_heads=architecture.num_heads,
            num_key_value_heads=architecture.num_kv_heads,
            max_position_embeddings=architecture.max_position,
            tie_word_embeddings=architecture.tie_embeddings,
            use_cache=False,
            **options,
        )
    )


@pytest.mark.parametrize(
    ("architecture", "vocab_size"),
    [(SMALL, 320), (TIED, 320), (LLAMA_2_7B, 32_000), (LLAMA_2_70B, 32_000)],
    ids=["small", "tied", "7B", "70B"],
)
def test_parameters_are_those_of_transformers(architecture: Architecture, vocab_size: int) -> None:
    import torch

    with torch.device("meta"):
        model = llama(architecture, vocab_size)
    assert count_parameters(architecture, vocab_size).total == model.num_parameters()


def test_llama_2_70b_has_its_published_parameters() -> None:
    assert count_parameters(LLAMA_2_70B, 32_000).total == 68_976_648_192


def test_adapters_have_the_parameters_peft_gives_them() -> None:
    from peft import LoraConfig, get_peft_model

    tuning = LoraTuning(kind="lora", rank=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(llama(SMALL, 320), LoraConfig(r=4, target_modules=tuning.target_modules))
    trained, _ = model.get_nb_trainable_parameters()
    assert count_adapter_parameters(SMALL, tuning) == trained


@pytest.mark.parametrize("architecture", [SMALL, TIED], ids=["untied", "tied"])
def test_operations_are_those_torch_counts(architecture: Architecture) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # Eager attention computes the scores in full, which is the convention of the formula.
    model = llama(architecture, 320, attn_implementation="eager")
    tokens = torch.randint(0, 320, (2, 64))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens).loss.backward()
    expected = training_flops_per_token(architecture, 320, sequence_length=64) * tokens.numel()
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize(
    ("layout", "weights", "cast"), [(FLOAT32, "float32", False), (BFLOAT16, "bfloat16", False), (CAST, "float32", True)]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_of_a_layer_are_what_autograd_keeps(
    layout: Layout, weights: str, cast: bool, checkpointing: bool
) -> None:
    import torch

    def kept(num_layers: int) -> int:
        model = llama(SMALL.model_copy(update={"num_layers": num_layers}), 320, attn_implementation="sdpa")
        model.to(getattr(torch, weights)).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return bytes_kept(lambda: model.model(torch.randint(0, 320, (2, 64))), model, cast=cast)

    per_layer, num_tokens = kept(3) - kept(2), 2 * 64
    parameters = count_parameters(SMALL, 320)
    copies = layout.copies * (parameters.attention + parameters.feed_forward)
    expected = layer_activation_bytes(SMALL, layout, num_tokens) + copies
    if checkpointing:
        expected = layout.residual * SMALL.hidden_size * num_tokens
    assert per_layer == pytest.approx(expected, rel=0.001)


def bytes_kept(forward: Callable[[], Any], model: Any, *, cast: bool) -> int:
    """Returns the bytes that autograd keeps of a forward pass, parameters not counted."""
    import torch

    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Any] = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=cast),
    ):
        output = forward()
    del output
    return sum(sizes.values())


@pytest.mark.parametrize(("zero_stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_are_those_of_the_zero_paper(zero_stage: int, gigabytes: float) -> None:
    # Figure 1 of arXiv 1910.02054: 7.5 billion parameters, 64 devices, mixed precision with Adam.
    load = Load(
        LLAMA_2_7B, 32_000, "bfloat16", zero_stage, num_devices=64, num_sequences=1, sequence_length=8,
        activation_checkpointing=True,
    )  # fmt: skip
    memory = plan_memory(load, 80_000_000_000)
    # The paper adds gradients up in half precision; here they are float32.
    states = memory.weights_bytes + memory.gradients_bytes / 2 + memory.optimizer_bytes
    assert states / count_parameters(LLAMA_2_7B, 32_000).total * 7.5 == pytest.approx(gigabytes, abs=0.06)


@pytest.mark.parametrize(
    ("engine", "bytes_per_parameter"),
    [
        ({"kind": "ddp"}, 4 + 2 + 4 + 8),
        ({"kind": "deepspeed", "zero_stage": 1}, 2 + 4 + 12 / 4),
        ({"kind": "deepspeed", "zero_stage": 2}, 2 + (4 + 12) / 4),
        ({"kind": "deepspeed", "zero_stage": 2, "offload": "optimizer"}, 2 + 4 / 4),
        ({"kind": "fsdp"}, (4 + 4 + 8) / 4),
        ({"kind": "fsdp", "cpu_offload": True}, 0),
    ],
)
def test_states_are_those_of_the_engine(engine: dict[str, Any], bytes_per_parameter: float) -> None:
    changes = {"pretrain.engine": engine, "pretrain.precision": "bfloat16", "hardware.devices_per_node": 4}
    plan = make_plan(recipe({**changes, "pretrain.micro_batch_sequences": 4}))
    memory = plan.pretrain.memory
    states = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
    assert states / plan.parameters.total == pytest.approx(bytes_per_parameter, rel=1e-5)
    # What is stored to resume from does not depend on it.
    assert plan.pretrain.resumable_bytes == 12 * plan.parameters.total
    assert plan.pretrain.engine.startswith(engine["kind"])


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"kind": "fsdp", "tensor_parallel": 3}, "tensor_parallel 3 does not divide the 4 processes"),
        ({"kind": "deepspeed", "zero_stage": 2, "offload": "all"}, "set engine.zero_stage: 3"),
    ],
)
def test_engines_that_cannot_be_are_refused_with_the_recipe(engine: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe({"pretrain.engine": engine, "hardware.devices_per_node": 4})


def test_steps_are_whole_batches() -> None:
    plan = make_plan(recipe({"pretrain.tokens": 600_001}))
    assert plan.pretrain.steps == 147
    assert plan.pretrain.tokens == 147 * 4096
    assert plan.pretrain.num_sequences == 147 * 16


def test_tokens_follow_groups_and_weights() -> None:
    sources = [
        {"kind": "jsonl", "name": "a", "group": "code", "weight": 3, "root": "x", "available_tokens": 500_000},
        {"kind": "jsonl", "name": "b", "group": "code", "weight": 1, "root": "x", "available_tokens": 10_000},
        {"kind": "jsonl", "name": "c", "group": "text", "weight": 7, "root": "x", "available_tokens": 50_000},
    ]
    plan = make_plan(
        recipe({"data.sources": sources, "data.groups": {"code": 10, "text": 1}, "pretrain.tokens": 4096 * 110})
    )
    assert [source.tokens for source in plan.sources] == [75 * 4096, 25 * 4096, 10 * 4096]
    assert [source.epochs for source in plan.sources] == pytest.approx([0.6144, 10.24, 0.8192])


def test_a_source_that_would_be_read_too_often_is_short_by_the_tokens_it_lacks() -> None:
    source = {"kind": "jsonl", "name": "code", "root": "x", "available_tokens": 100_000, "max_epochs": 2}
    plan = make_plan(recipe({"data.sources": [source], "pretrain.tokens": 4096 * 60}))
    with pytest.raises(PlanError) as refused:
        check_plan(plan)
    assert "data.sources[0] ('code')" in str(refused.value)
    assert f"{4096 * 60 - 200_000:,} tokens too few" in str(refused.value)
    assert not make_plan(recipe({"data.sources": [source], "pretrain.tokens": 4096 * 48})).problems


def test_held_out_text_is_not_there_for_training() -> None:
    plan = make_plan(recipe({"data.heldout_fraction": 0.1}))
    most = round(200_000 / 3.3)
    assert plan.sources[0].available_tokens == 1_000_000 - most


def test_a_local_source_is_measured_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "code.jsonl"
    file.write_text("".join(json.dumps({"text": "x = 1\n" * 1000}) + "\n" for _ in range(10)), encoding="utf-8")
    plan = make_plan(recipe({"data.sources": [{"kind": "jsonl", "name": "code", "root": str(file)}]}))
    assert plan.sources[0].available_from == "bytes"
    assert plan.sources[0].available_tokens == pytest.approx(60_000 / 3.3, rel=0.2)
    assert any("3.3 bytes a token" in note for note in plan.notes)


def test_a_source_that_cannot_be_read_is_a_problem_and_not_a_crash() -> None:
    plan = make_plan(recipe({"data.sources": [{"kind": "jsonl", "name": "code", "root": "no-such-file"}]}))
    assert len(plan.problems) == 1
    assert "no-such-file" in plan.problems[0]


def test_dialogues_give_the_steps_of_tuning() -> None:
    plan = make_plan(recipe({"finetune.epochs": 3, "finetune.batch_dialogues": 64}))
    assert plan.finetune.num_sequences == 1500
    assert plan.finetune.steps == 24
    assert plan.finetune.tokens == 150_000


def test_a_pack_that_holds_more_than_a_step_is_to_have_leaves_fewer_steps() -> None:
    changes = {"finetune.epochs": 1, "finetune.batch_dialogues": 1, "finetune.max_length": 256}

    packed, single = (
        make_plan(recipe({**changes, "finetune.packing": packing})).finetune for packing in ("best_fit", "none")
    )

    assert single.steps == 500
    assert packed.steps == -(-50_000 // 256)


def test_devices_that_have_no_pack_in_a_step_are_paid_and_do_nothing() -> None:
    # 500 dialogues of 100 tokens in packs of 256: five dialogues, so two packs, a step.
    changes = {"finetune.epochs": 1, "finetune.batch_dialogues": 5, "finetune.max_length": 256}

    two, eight = (
        make_plan(
            recipe({**changes, "hardware.devices_per_node": devices, "pretrain.micro_batch_sequences": 1})
        ).finetune
        for devices in (2, 8)
    )

    assert eight.hours == pytest.approx(two.hours)
    assert eight.cost == pytest.approx(4 * two.cost)


def test_four_bits_leave_about_an_eighth_of_the_linear_layers_weights() -> None:
    lora, qlora = (
        make_plan(recipe({"finetune.method": {"kind": kind}})).finetune.memory.weights_bytes
        for kind in ("lora", "qlora")
    )

    architecture = recipe({}).model.architecture
    parameters = count_parameters(architecture, recipe({}).model.tokenizer.vocab_size)
    linear = parameters.num_layers * (parameters.attention + parameters.feed_forward)
    assert lora - qlora == pytest.approx(linear * (4 - 4.127 / 8), rel=1e-6)


def test_the_projects_own_dialogues_are_counted() -> None:
    source = {"kind": "expressions", "name": "skill", "num_dialogues": 40, "weight": 2}
    plan = make_plan(recipe({"data.dialogues": [source], "finetune.epochs": 1}))
    assert plan.dialogues[0].num_dialogues == 40
    assert plan.finetune.num_sequences == 80


def test_every_memory_problem_names_settings_that_mend_it() -> None:
    changes: dict[str, Any] = {
        "hardware.devices_per_node": 4,
        "hardware.accelerator.memory_bytes": 180_000_000,
        "finetune.micro_batch_dialogues": 1,
    }
    changes |= {"pretrain.micro_batch_sequences": 4, "pretrain.precision": "bfloat16"}
    problem = next(text for text in make_plan(recipe(changes)).problems if text.startswith("pretrain"))
    manner, _, listed = problem.partition(" makes it fit: ")
    settings = [setting.split(": ", 1) for setting in listed.split("; ")]
    assert manner.endswith("any one of these")
    for key, value in settings:
        mended = recipe({**changes, key: yaml.safe_load(value)})
        assert make_plan(mended).pretrain.memory.fits, key


def test_settings_that_help_only_together_are_named_together() -> None:
    changes: dict[str, Any] = {
        "hardware.devices_per_node": 4,
        "hardware.accelerator.memory_bytes": 80_000_000,
        "pretrain.micro_batch_sequences": 4,
        "pretrain.precision": "bfloat16",
        "finetune.micro_batch_dialogues": 1,
    }
    problem = next(text for text in make_plan(recipe(changes)).problems if text.startswith("pretrain"))
    _, _, listed = problem.partition("these together make it fit: ")
    settings = dict(setting.split(": ", 1) for setting in listed.split("; "))
    parsed = {key: yaml.safe_load(value) for key, value in settings.items()}
    assert make_plan(recipe({**changes, **parsed})).pretrain.memory.fits
    for key in parsed:
        fewer = {other: value for other, value in parsed.items() if other != key}
        assert not make_plan(recipe({**changes, **fewer})).pretrain.memory.fits, f"{key} is not needed"


def test_what_no_setting_saves_is_said_in_devices() -> None:
    problem = make_plan(recipe({"hardware.accelerator.memory_bytes": 50_000_000})).problems[0]
    assert "devices (hardware.num_nodes x devices_per_node) hold it" in problem
    assert "no number of devices" in make_plan(recipe({"hardware.accelerator.memory_bytes": 5_000_000})).problems[0]


def test_unknown_adapter_layers_are_refused() -> None:
    plan = make_plan(recipe({"finetune.method": {"kind": "lora", "target_modules": ["q_proj", "query"]}}))
    assert "'query'" in plan.problems[0]
    assert "down_proj" in plan.problems[0]


def test_adapters_need_less_memory_and_fewer_operations_than_full_tuning() -> None:
    full, lora = make_plan(recipe()).finetune, make_plan(recipe({"finetune.method": {"kind": "lora"}})).finetune
    assert lora.trained_parameters < full.trained_parameters / 5
    assert lora.memory.optimizer_bytes < full.memory.optimizer_bytes / 5
    assert lora.flops_per_token < full.flops_per_token
    assert lora.weights_bytes == full.weights_bytes


def test_hours_and_cost_follow_from_operations_peak_and_price() -> None:
    changes = {"hardware.devices_per_node": 2, "pretrain.micro_batch_sequences": 8, "hardware.expected_mfu": 0.25}
    changes |= {"hardware.accelerator.peak_flops": 1e12, "hardware.accelerator.price_per_hour": 36}
    stage = make_plan(recipe({**changes, "finetune.micro_batch_dialogues": 32})).pretrain
    assert stage.flops is not None
    assert stage.tokens is not None
    seconds = stage.flops / (2 * 1e12 * 0.25)
    assert stage.hours == pytest.approx(seconds / 3600)
    assert stage.cost == pytest.approx(2 * seconds / 3600 * 36)
    assert stage.tokens_per_second == pytest.approx(stage.tokens / seconds)


def test_a_plan_is_the_same_after_json() -> None:
    plan = make_plan(recipe())
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_check_lists_every_problem() -> None:
    changes = {
        "hardware.accelerator.memory_bytes": 1_000_000,
        "finetune.method": {"kind": "lora", "target_modules": ["x"]},
    }
    plan = make_plan(recipe(changes))
    with pytest.raises(PlanError, match="3 problems") as refused:
        check_plan(plan)
    assert all(problem in str(refused.value) for problem in plan.problems)


@pytest.mark.parametrize("width", [60, 120])
def test_a_plan_can_be_read_on_a_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    render_plan(make_plan(recipe({"data.dialogues": []})), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("code", "steps", "FLOP", "GB", "USD", "fits"):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= width
