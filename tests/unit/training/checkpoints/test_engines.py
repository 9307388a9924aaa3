"""Every engine writes checkpoints that every other one reads, with another number of processes too."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from small_runs import ENGINES, NUM_STEPS, Run, places, whole_state


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_that_goes_on_ends_as_an_unbroken_one_and_all_is_written_once(tmp_path: Path, engine: str) -> None:
    unbroken = Run(tmp_path, engine, 2, section={"keep_every_steps": 8, "keep_checkpoints": 1}).go()
    assert [told["resumed_at"] for told in unbroken] == [None, None]

    resumed = Run(tmp_path, engine, 2).go()

    assert [told["resumed_at"] for told in resumed] == [8, 8]
    assert resumed[0]["weights"] == unbroken[0]["weights"]
    assert whole_state(resumed, "state_at_end") == whole_state(unbroken, "state_at_end")
    assert resumed[0]["losses"] == unbroken[0]["losses"]
    assert resumed[0]["rates"] == unbroken[0]["rates"]
    assert resumed[0]["restored"] == {"said": 8}
    _check_shares(unbroken)


def _check_shares(said: list[dict[str, object]]) -> None:
    """All processes together write each element of each part once, and hardly one more than another."""
    written: Counter[tuple[str, str, int]] = Counter()
    sizes, shares = {}, []
    for told in said:
        shares.append(0)
        for name, part, shape, *runs in told["owned"]:  # type: ignore[attr-defined]
            sizes[name, part] = math.prod(shape)
            written.update((name, part, place) for place in places(*runs))
            shares[-1] += len(places(*runs))
    assert {part for _, part in sizes} == {"weight", "exp_avg", "exp_avg_sq"}
    assert set(written.values()) == {1}
    assert len(written) == sum(sizes.values())
    assert max(shares) - min(shares) < 0.05 * sum(shares)


def test_a_run_is_handed_from_engine_to_engine(tmp_path: Path) -> None:
    unbroken = Run(tmp_path / "unbroken").go()
    folder = tmp_path / "handed"
    legs = [("zero2", 3, 2), ("fsdp", 1, 4), ("zero3", 2, 6), ("ddp", 3, 7), ("zero1", 1, 9), ("fsdp", 3, 10)]

    before, reached = None, None
    for engine, num_ranks, stop_after in [*legs, ("zero3", 3, NUM_STEPS)]:
        said = Run(folder, engine, num_ranks, stop_after=stop_after).go()
        assert [told["exit_code"] for told in said] == [0] * num_ranks, said[0].get("traceback")
        assert {told["resumed_at"] for told in said} == {reached}
        if before:
            assert whole_state(said, "state_at_start") == before
        before, reached = whole_state(said, "state_at_end"), stop_after

    assert said[0]["losses"] == pytest.approx(unbroken[0]["losses"], abs=1e-5)
    assert said[0]["rates"] == unbroken[0]["rates"]
    assert said[0]["num_updates"] == NUM_STEPS
    expected = whole_state(unbroken, "state_at_end")
    for place, numbers in before.items():
        assert numbers == pytest.approx(expected[place], abs=1e-5 if place[1] == "weight" else 1e-4), place


def test_weights_divided_by_rows_and_columns_are_read_by_one_process_and_back(tmp_path: Path) -> None:
    sizes = {"vocab_size": 96, "num_attention_heads": 2, "num_key_value_heads": 2}
    four = Run(tmp_path, "tensor_parallel", 4, stop_after=5, sizes=sizes).go()
    assert [told["exit_code"] for told in four] == [0] * 4, four[0].get("traceback")
    _check_shares(four)
    # Some weights are divided by columns, of which each process has a part of every row.
    assert any(num_runs > 1 for told in four for _, _, _, _, _, num_runs, _ in told["owned"])

    one = Run(tmp_path, "ddp", 1, stop_after=8, sizes=sizes).go()
    assert whole_state(one, "state_at_start") == whole_state(four, "state_at_end")
    two = Run(tmp_path, "tensor_parallel", 2, sizes=sizes).go()
    assert whole_state(two, "state_at_start") == whole_state(one, "state_at_end")

    unbroken = Run(tmp_path / "unbroken", sizes=sizes).go()
    assert two[0]["losses"] == pytest.approx(unbroken[0]["losses"], abs=1e-5)
