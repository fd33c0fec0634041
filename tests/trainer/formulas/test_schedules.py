"""How many steps, how fast, and when to look."""

import pytest

from trainer.formulas.schedules import count_steps, is_due, linear_to_zero


@pytest.mark.parametrize(
    ("asked", "epochs", "examples", "size", "steps"),
    [
        (None, 1.0, 64, 16, 4),
        (None, 3.0, 64, 16, 12),
        (None, 1.0, 90, 16, 6),  # 5.6 batches: the last one goes on into the next epoch
        (None, 1.0, 84, 16, 5),  # 5.25
        (None, 0.5, 64, 16, 2),
        (None, 1.0, 3, 16, 1),
        (7, 3.0, 64, 16, 7),
    ],
)
def test_steps_are_those_asked_for_or_of_the_passes_over_the_data(
    asked: int | None, epochs: float, examples: int, size: int, steps: int
) -> None:
    assert count_steps(asked, epochs, examples, size) == steps


def test_the_rate_rises_to_the_whole_and_falls_to_its_last_share() -> None:
    assert [linear_to_zero(step, 8, warmup=3) for step in range(1, 9)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]
    )
    assert [linear_to_zero(step, 4) for step in range(1, 5)] == pytest.approx(
        [1, 3 / 4, 1 / 2, 1 / 4]
    )


def test_looks_come_every_so_many_steps_and_at_the_end() -> None:
    assert [step for step in range(1, 12) if is_due(step, 4, 11)] == [4, 8, 11]
    assert [step for step in range(1, 31) if is_due(step, None, 30)] == list(range(3, 31, 3))
    assert [step for step in range(1, 5) if is_due(step, None, 4)] == [1, 2, 3, 4]
