"""A synthetic run: the results its stages would have stored, without their work."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lemur.receipt import Receipt, digest_of
from lemur.report import write_report


def figure(value: float, spread: float, *, share: bool, num_samples: int = 200) -> dict[str, Any]:
    return {
        "value": value,
        "low": max(0.0, value - spread),
        "high": min(1.0, value + spread) if share else value + spread,
        "num_samples": num_samples,
        "better": "higher" if share else "lower",
        "unit": "share of problems" if share else "bits per byte",
        "method": "Wilson score" if share else "bootstrap over documents",
    }


FIGURES = {
    "initial": {
        "bits_per_byte": {
            "bits_per_byte": figure(7.943, 0.051, share=False, num_samples=84),
            "bits_per_byte_code": figure(7.912, 0.051, share=False, num_samples=61),
            "bits_per_byte_text": figure(7.884, 0.047, share=False, num_samples=23),
        },
        "expressions": {
            "accuracy": figure(0.0, 0.019, share=True),
            "accuracy_arithmetic": figure(0.0, 0.037, share=True, num_samples=101),
            "accuracy_strings": figure(0.0, 0.038, share=True, num_samples=99),
        },
    },
    "base": {
        "bits_per_byte": {
            "bits_per_byte": figure(2.348, 0.083, share=False, num_samples=84),
            "bits_per_byte_code": figure(2.317, 0.083, share=False, num_samples=61),
            "bits_per_byte_text": figure(2.951, 0.112, share=False, num_samples=23),
        },
        "expressions": {
            "accuracy": figure(0.025, 0.021, share=True),
            "accuracy_arithmetic": figure(0.039, 0.035, share=True, num_samples=101),
            "accuracy_strings": figure(0.011, 0.027, share=True, num_samples=99),
        },
    },
    "chat": {
        "bits_per_byte": {
            "bits_per_byte": figure(2.433, 0.085, share=False, num_samples=84),
            "bits_per_byte_code": figure(2.402, 0.085, share=False, num_samples=61),
            "bits_per_byte_text": figure(3.018, 0.115, share=False, num_samples=23),
        },
        "expressions": {
            "accuracy": figure(0.735, 0.061, share=True),
            "accuracy_arithmetic": figure(0.812, 0.077, share=True, num_samples=101),
            "accuracy_strings": figure(0.657, 0.092, share=True, num_samples=99),
        },
    },
}


def judgement(benchmark: str, metric: str, condition: str, threshold: float, **more: Any) -> dict[str, Any]:
    value = FIGURES["chat"][benchmark][metric]
    return {
        "benchmark": benchmark, "metric": metric, "condition": condition, "outcome": "pass", "candidate": value,
        "value": value["value"], "low": value["low"], "high": value["high"], "threshold": threshold,
        "method": "paired bootstrap over samples", "num_samples": 61, **more,
    }  # fmt: skip


VERDICT = {
    "outcome": "pass",
    "accepted": True,
    "confidence": 0.95,
    "rules": [
        judgement(
            "bits_per_byte", "bits_per_byte_code", "better_than", 0.0, baseline="initial",
            sentence="a gain of 5.51 (5.42 to 5.60) is more than the margin of 0",
        ),
        judgement(
            "bits_per_byte", "bits_per_byte_code", "better_than", -0.25, baseline="base",
            sentence="a gain of -0.085 (-0.109 to -0.061) is more than the margin of -0.25",
        ),
        judgement("expressions", "accuracy", "minimum", 0.6, sentence="0.735 (0.674 to 0.796) is at least 0.6"),
    ],
}  # fmt: skip


def log_lines(num_points: int, *, start: float, end: float, every: int = 4) -> bytes:
    lines = []
    for index in range(num_points):
        step = (index + 1) * every
        loss = end + (start - end) * math.exp(-5 * index / num_points) + 0.03 * math.sin(index * 2.3)
        rate = 9_100 + 420 * math.sin(index / 3)
        lines.append(
            json.dumps(
                {"step": step, "tokens": step * 8192, "loss": loss, "grad_norm": 1.0}
                | {"learning_rate": 4e-5 * min(step / 20, 0.55 + 0.45 * math.cos(math.pi * index / num_points))}
                | {"tokens_per_second": rate, "seconds": step * 0.9}
            )
        )
    return "\n".join(lines).encode()


class SyntheticRun:
    """Writes results as the stages do, without their work."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.receipts: dict[str, Receipt] = {}

    def keep(
        self,
        task: str,
        kind: Any,
        objects: Mapping[str, bytes],
        *,
        parents: tuple[str, ...] = (),
        metrics: Mapping[str, float] = {},
        metadata: Mapping[str, Any] = {},
    ) -> None:
        from lemur.results import write_result

        key = digest_of(task)
        stages = {"tokens": "mix", "dialogues": "mix", "checkpoint": "pretrain", "scores": "evaluate"}
        writer = write_result(
            f"file://{self.root}",
            prefix=f"{kind}/{key[:16]}",
            kind=kind,
            stage="finetune" if task == "chat" else stages.get(kind, "publish"),
            key=key,
            parents={name: self.receipts[name] for name in parents},
        )
        for name, data in objects.items():
            writer.add_bytes(name, data)
        self.receipts[task] = writer.commit(metrics=dict(metrics), metadata=dict(metadata))


SEQUENCE_LENGTH = 512


def tokens_metadata() -> dict[str, Any]:
    def source(
        group: str, weight: float, tokens: int, num_bytes: int, lengths: list[int], left_out: int
    ) -> dict[str, Any]:
        sequences = -(-tokens // SEQUENCE_LENGTH) + 3
        return {
            "group": group, "weight": weight, "partitions": 1, "documents": sum(lengths), "tokens": tokens,
            "bytes": num_bytes, "sequences": sequences, "padding_tokens": sequences * SEQUENCE_LENGTH - tokens,
            "cut_documents": sum(lengths[10:]), "token_lengths": lengths, "duplicates": left_out,
            "near_duplicates": 2 * left_out + 1, "contaminated": left_out // 10, "heldout_documents": left_out + 1,
            "heldout_bytes": left_out * 3210, "heldout_copies": left_out // 20, "empty_documents": left_out // 30,
            "unreadable": left_out // 15,
        }  # fmt: skip

    code = source("code", 0.909, 4_812_345, 18_432_100, [0, 0, 0, 4, 12, 31, 77, 154, 260, 388, 402, 231, 117, 37], 61)
    dropped = {"language": {"documents": 1904, "bytes": 9_876_543}, "lines": {"documents": 38, "bytes": 201_000}}
    first = ["api/old.md: not UTF-8 at byte 17"]
    text = source("text", 0.091, 1_204_877, 5_120_400, [1, 0, 3, 9, 24, 41, 60, 85, 96, 74, 52, 31, 14, 6, 2], 23)
    return {
        "sources": {"standard-library": code, "documentation": text | {"dropped": dropped, "unreadable_first": first}},
        "vocab_size": 4096,
        "sequence_length": SEQUENCE_LENGTH,
        "packing": "best_fit",
        "seed": 0,
    }


def checkpoint_metadata(role: str, *, steps: int, tokens: int, resumed: list[int]) -> dict[str, Any]:
    return {
        "role": role, "num_parameters": 3_147_008, "steps": steps, "tokens": tokens, "resumed_at_steps": resumed,
        "device": "cpu", "precision": "float32", "processes": 2, "method": "full", "versions": {"torch": "2.13.0"},
    }  # fmt: skip


def samples(score_every: int, prefix: str = "") -> list[dict[str, Any]]:
    return [
        {
            "id": f"expression-{index:03d}",
            "metric": ("accuracy_arithmetic", "accuracy_strings")[index // 4 % 2],
            "score": float(index % score_every != 0),
            "prompt": f"{prefix}What does this print?\nprint(({index} * 7) % 12 + len('lemur'))",
            "answer": f"It prints {index % 5}.",
            "target": str(index * 7 % 12 + 5),
            "note": "",
        }
        for index in range(12)
    ]


def complete_run(root: Path, *, hostile: str = "") -> dict[str, Receipt]:
    """Writes every result of a run that passed the gate."""
    run = SyntheticRun(root)
    totals = {"tokens": 6_017_222, "documents": 2211, "bytes": 23_552_500, "tokens_per_second": 412_345}
    run.keep("tokens", "tokens", {"dataset.json": b"{}"}, metrics=totals, metadata=tokens_metadata())
    dialogues = {"expressions": {"dialogues": 2345, "repeated": 4690, "unreadable": 7}}
    run.keep("dialogues", "dialogues", {"dialogues.jsonl": b""}, metadata={"sources": dialogues})
    run.keep(
        "initial",
        "checkpoint",
        {"config.json": b"{}"},
        metadata=checkpoint_metadata("initial", steps=0, tokens=0, resumed=[]),
    )
    run.keep(
        "base", "checkpoint", {"metrics.jsonl": log_lines(75, start=8.3, end=2.61)}, parents=("tokens", "initial"),
        metrics={"final_loss": 2.6134, "tokens_per_second": 9123.4, "mfu": 0.317, "seconds": 268.4}
        | {"data_wait_share": 0.0042, "peak_memory_bytes": 1.87e9},
        metadata=checkpoint_metadata("base", steps=300, tokens=2_457_600, resumed=[120, 212])
        | {"engine": {"kind": "deepspeed", "zero_stage": 2, "offload": False}, "skipped_steps": [17, 230]}
        | {"kernels": {"attention": "sdpa", "optimizer": "AdamW (fused)", "liger": None, "notes": []}},
    )  # fmt: skip
    run.keep(
        "chat", "checkpoint", {"metrics.jsonl": log_lines(22, start=2.9, end=0.21, every=5)},
        parents=("base", "dialogues"),
        metrics={"final_loss": 0.2071, "tokens_per_second": 5432.1, "seconds": 61.7},
        metadata=checkpoint_metadata("chat", steps=110, tokens=312_000, resumed=[]),
    )  # fmt: skip
    for role, figures in FIGURES.items():
        results = [
            {"benchmark": name, "figures": by_metric, "samples": samples(4, hostile) if name == "expressions" else []}
            for name, by_metric in figures.items()
        ]
        run.keep(
            f"scores_{role}", "scores", {"results.json": json.dumps(results).encode()}, parents=(role, "tokens"),
            metadata={"role": role, "figures": figures, "confidence": 0.95}
            | {"seconds": {"bits_per_byte": 4.1, "expressions": 9.2}},
        )  # fmt: skip
    judged = {f"scores_{role}" for role in FIGURES}
    run.keep(
        "verdict",
        "verdict",
        {"verdict.json": json.dumps(VERDICT).encode()},
        parents=tuple(sorted(judged)),
        metadata=VERDICT,
    )
    run.keep("release", "release", {"model.safetensors": b"x" * 12_600}, parents=("chat", "verdict"), metadata={})
    endpoint = {
        "command": "lemur serve work/runs/quickstart",
        "dialogues": [
            {
                "prompt": f"{hostile}What does print(3 + 4) show?",
                "reply": "It prints 7.",
                "finish_reason": "stop",
                "seconds": 0.412,
                "tokens_per_second": 87.3,
            },
            {
                "prompt": "Who are you?",
                "reply": "I am the tuned model of this run, and I know " * 4,
                "finish_reason": "length",
                "seconds": 6.1,
                "tokens_per_second": 83.9,
            },
        ],
    }
    run.keep(
        "endpoint",
        "endpoint",
        {"endpoint.json": json.dumps(endpoint).encode()},
        parents=("release",),
        metadata=endpoint,
    )
    return run.receipts


RECIPE = {
    "name": "quickstart",
    "storage": "file:///data/lemur",
    "pretrain": {"tokens": 2_457_600, "learning_rate": 0.001},
    "gate": {"rules": [{"benchmark": "expressions", "metric": "accuracy", "minimum": 0.6}]},
}


def report_of(receipts: Mapping[str, Receipt], folder: Path) -> str:
    path = write_report(receipts, recipe=RECIPE, plan={"steps": 300}, path=folder / "report.html", title="quickstart")
    return path.read_text(encoding="utf-8")
