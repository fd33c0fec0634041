"""How many steps, and the share of the learning rate at each."""


def is_due(step: int, every: int | None, total: int) -> bool:
    """Whether something that is done every so many steps (a tenth of the run, if None) is due now."""
    return step % (every or max(1, total // 10)) == 0 or step == total


def linear_to_zero(step: int, total: int, *, warmup: int = 0) -> float:
    """The share of the learning rate at a step (from 1): up over the warm-up, then down to 0."""
    if step <= warmup:
        return step / warmup
    return max(0.0, (total - step + 1) / max(total - warmup, 1))


def count_steps(asked: int | None, epochs: float, examples: int, batch_size: int) -> int:
    """As many steps as asked for, else those of so many passes over the examples; at least one."""
    return asked or max(1, round(epochs * examples / batch_size))
