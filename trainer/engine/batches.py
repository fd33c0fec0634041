"""Which examples each step sees."""

from collections.abc import Sequence

import torch

# So many batches' examples are sorted by length together: enough to leave little padding, few enough that
# what shares a batch is still mostly chance.
SORTED_BATCHES = 16


class Batches:
    """Which examples each step sees: epochs follow each other, each in an order of its own.

    With `lengths`, examples of about the same length share a batch, for less padding: the epoch's random
    order is cut into runs of SORTED_BATCHES batches, each run is sorted by length, and the batches come in
    random order. All of it depends on nothing but the arguments, so that a resumed run sees what it would
    have seen.
    """

    def __init__(
        self, count: int, size: int, *, seed: int, lengths: Sequence[int] | None = None
    ) -> None:
        self.count, self.size, self.seed, self.lengths = count, size, seed, lengths
        self._epoch, self._order = -1, list[int]()

    def __call__(self, step: int) -> list[int]:
        """The examples of a step, counted from 1."""
        chosen: list[int] = []
        first = (step - 1) * self.size
        while len(chosen) < self.size:
            epoch, offset = divmod(first + len(chosen), self.count)
            chosen += self._order_of(epoch)[offset : offset + self.size - len(chosen)]
        return chosen

    def _order_of(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            stream = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order: list[int] = torch.randperm(self.count, generator=stream).tolist()
            if self.lengths is not None and self.count >= self.size:
                order = self._by_length(order, self.lengths, stream)
            self._epoch, self._order = epoch, order
        return self._order

    def _by_length(
        self, order: list[int], lengths: Sequence[int], stream: torch.Generator
    ) -> list[int]:
        run = self.size * SORTED_BATCHES
        sorted_runs = [
            example
            for start in range(0, len(order), run)
            for example in sorted(order[start : start + run], key=lambda each: lengths[each])
        ]
        whole = len(order) // self.size
        shuffled = torch.randperm(whole, generator=stream).tolist()
        batches = [
            sorted_runs[number * self.size : (number + 1) * self.size] for number in shuffled
        ]
        # What is left over makes no whole batch: it comes last, and the next epoch fills it up.
        return [example for batch in batches for example in batch] + sorted_runs[
            whole * self.size :
        ]
