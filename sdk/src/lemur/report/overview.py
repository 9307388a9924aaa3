"""The first and last things a report says: how the run ended, what ran, and where everything came from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from lemur import units
from lemur.receipt import Receipt
from lemur.report.contents import ROLES, Contents, figures_of, seconds_of
from lemur.report.scores import comparison, judged_metrics, metric_title
from lemur.run_record import TASKS


class Badge(NamedTuple):
    """A short judgement."""

    state: str
    """Class that colours it: `pass`, `fail`, `cannot_tell` or `absent`."""
    text: str


class Tile(NamedTuple):
    """A key figure."""

    label: str
    value: str
    note: str
    unit: str = ""
    """Unit that stands small beside the value."""
    role: str = ""
    """Model it belongs to, where it is one's."""


class Step(NamedTuple):
    """A stage of the run."""

    name: str
    state: str
    """`done`, `part`, `fail` or `absent`."""
    made: str
    time: str


class Origin(NamedTuple):
    """Where a result stands and what it was made from."""

    task: str
    stage: str
    uri: str
    digest: str
    key: str
    size: str
    parents: str


def badge(contents: Contents) -> Badge:
    """Returns how the run ended, in a few words."""
    verdict = contents.verdict
    if verdict is None:
        return Badge("absent", "Ended before the gate")
    if verdict.outcome == "cannot_tell":
        return Badge("cannot_tell", f"The gate cannot tell, {'accepted' if verdict.accepted else 'not published'}")
    return Badge(verdict.outcome, "Passed the gate" if verdict.accepted else "Refused by the gate")


def lead(contents: Contents) -> str:
    """Returns the verdict in a sentence: that all holds, or each condition that decided against the model."""
    verdict = contents.verdict
    if verdict is None:
        return ""
    if verdict.outcome == "pass":
        number = len(verdict.rules)
        return f"All conditions of the gate hold, {number} of {number}." if number else "The recipe has no rules."
    decisive = "; ".join(rule.sentence for rule in verdict.rules if rule.outcome == verdict.outcome)
    return f"{decisive[:1].upper()}{decisive[1:]}."


def tiles(contents: Contents) -> list[Tile]:
    """Returns the key figures: size, tokens, time, speed, and the chat model's main scores."""
    receipts = contents.receipts
    found = []
    model = next((receipts[role] for role in reversed(ROLES) if role in receipts), None)
    if model and "num_parameters" in model.metadata:
        parameters = model.metadata["num_parameters"]
        found.append(Tile("Model", units.count(parameters, "parameters"), f"{units.whole(parameters)} in all"))
    base = receipts.get("base")
    if base and "tokens" in base.metadata:
        steps = base.metadata.get("steps")
        note = f"in {units.whole(steps)} steps of pretraining" if steps else "of pretraining"
        found.append(Tile("Trained on", units.count(base.metadata["tokens"], "tokens"), note))
    if base and "tokens_per_second" in base.metrics:
        mfu = base.metrics.get("mfu")
        note = f"{units.percent(mfu)} of the device's peak (MFU)" if mfu else "in pretraining"
        found.append(Tile("Speed", units.count(base.metrics["tokens_per_second"], "tokens/s"), note))
    times: dict[str, float] = {}
    for receipt in receipts.values():
        seconds = seconds_of(receipt)
        if seconds is not None:
            times[receipt.kind] = times.get(receipt.kind, 0.0) + seconds
    if times:
        work = {"checkpoint": "training", "scores": "evaluation"}
        note = f"of {' and '.join(work.get(kind, kind) for kind in times)}"
        found.append(Tile("Time", units.duration(sum(times.values())), note))
    return found


def score_tiles(contents: Contents) -> list[Tile]:
    """Returns the chat model's figures that the gate judged, or the first ones where it judged none."""
    figures = figures_of(contents.receipts)
    judged = judged_metrics(contents)
    chosen = [key for key in figures if key in judged] or list(figures)
    found = []
    for key in chosen[:4]:
        by_role = figures[key]
        role = next(role for role in reversed(ROLES) if role in by_role)
        figure = by_role[role]
        value, unit = units.figure(figure.value, figure.unit), "" if units.is_share(figure.unit) else figure.unit
        found.append(Tile(metric_title(key), value, comparison(by_role), unit=unit, role=role))
    return found


def flow(contents: Contents) -> list[Step]:
    """Returns the stages in order, with what each made and how long it took."""
    made = {
        "mix": _mixed(contents),
        "pretrain": _trained(contents, "base"),
        "finetune": _trained(contents, "chat"),
        "evaluate": _evaluated(contents),
        "gate": _judged(contents),
        "publish": _published(contents),
        "serve": _served(contents),
    }
    tasks = {
        "mix": ("tokens", "dialogues"),
        "pretrain": ("initial", "base"),
        "finetune": ("chat",),
        "evaluate": tuple(f"scores_{role}" for role in ROLES),
        "gate": ("verdict",),
        "publish": ("release",),
        "serve": ("endpoint",),
    }
    steps = []
    for name, needed in tasks.items():
        present = [task for task in needed if task in contents.receipts]
        state = "done" if len(present) == len(needed) else "part" if present else "absent"
        if name == "gate" and contents.verdict and not contents.verdict.accepted:
            state = "fail"
        times = [seconds for task in present if (seconds := seconds_of(contents.receipts[task])) is not None]
        time = units.duration(sum(times)) if times else ""
        steps.append(Step(name, state, made[name] or "not reached", time))
    return steps


def origins(receipts: Mapping[str, Receipt]) -> list[Origin]:
    """Returns where every result stands, in the order they were made."""
    task_by_digest = {receipt.digest: TASKS.get(task, task) for task, receipt in receipts.items()}
    return [
        Origin(
            TASKS.get(task, task),
            receipt.stage,
            receipt.uri,
            receipt.digest,
            receipt.key,
            f"{units.size(receipt.size_bytes)} in {units.count(receipt.num_objects, 'objects')}",
            ", ".join(task_by_digest.get(parent.digest, parent.uri) for parent in receipt.parents.values()),
        )
        for task, receipt in receipts.items()
    ]


def commands(contents: Contents) -> list[str]:
    """Returns what to type to serve the release and to talk to it; nothing where nothing was published."""
    release, endpoint = contents.receipts.get("release"), contents.receipts.get("endpoint")
    if release is None:
        return []
    local = release.uri.removeprefix("file://")
    serve = endpoint.metadata.get("command") if endpoint else None
    return [serve or f"lemur serve {shlex.quote(local)}", "lemur chat http://127.0.0.1:8000/v1"]


def _mixed(contents: Contents) -> str:
    tokens, dialogues = contents.receipts.get("tokens"), contents.receipts.get("dialogues")
    parts = []
    if tokens:
        parts.append(units.count(tokens.metrics.get("tokens", 0), "tokens"))
        parts.append(units.count(tokens.metrics.get("documents", 0), "documents"))
    if dialogues:
        parts.append(units.count(num_dialogues(dialogues.metadata), "dialogues"))
    return ", ".join(parts)


def num_dialogues(metadata: Mapping[str, Any]) -> int:
    """Returns how many dialogues all sources hold together."""
    return sum(source["dialogues"] for source in metadata.get("sources", {}).values())


def _trained(contents: Contents, role: str) -> str:
    receipt = contents.receipts.get(role)
    if receipt is None:
        return ""
    parts = [f"{units.whole(receipt.metadata['steps'])} steps"] if "steps" in receipt.metadata else []
    if "final_loss" in receipt.metrics:
        parts.append(f"final loss {units.digits(receipt.metrics['final_loss'], 4)}")
    return ", ".join(parts) or "trained"


def _evaluated(contents: Contents) -> str:
    models = [role for role in ROLES if f"scores_{role}" in contents.receipts]
    return f"{len(models)} of 3 models, {units.count(len(figures_of(contents.receipts)))} figures" if models else ""


def _judged(contents: Contents) -> str:
    if contents.verdict is None:
        return ""
    held = sum(rule.outcome == "pass" for rule in contents.judgements)
    number = len(contents.judgements)
    return f"{held} of {units.count(number, 'conditions')} hold" if number else "no rules, every model passes"


def _published(contents: Contents) -> str:
    release = contents.receipts.get("release")
    return f"{release.uri.rstrip('/').rpartition('/')[2]}, {units.size(release.size_bytes)}" if release else ""


def _served(contents: Contents) -> str:
    endpoint = contents.receipts.get("endpoint")
    return f"answered {units.count(len(endpoint.metadata.get('dialogues', [])), 'prompts')}" if endpoint else ""
