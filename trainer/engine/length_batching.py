"""Which rows go through a model together, so that little of the work is padding."""

from collections.abc import Sequence

# A call of a small model on a CPU costs about what a row of so many tokens does.
TOKENS_OF_A_CALL = 100


def cost_of(count: int, length: int, width: int) -> int:
    """What a forward pass over rows of this length costs, padding and all, in no unit.

    A token of a layer costs about 24 d^2 multiplications in the matrices and 4 L d in the attention. On
    two cores this picked the faster of two arrangements wherever they were more than a tenth apart.
    """
    return count * length * (6 * width + length)


def group_by_length(
    lengths: Sequence[int], most: int, width: int, *, call: int = TOKENS_OF_A_CALL
) -> list[list[int]]:
    """Which rows share a pass: at most `most`, of like length, at the least cost in all.

    Groups of one size would pad the few long rows of a batch to the longest; many small groups cost a
    call each, which is what a row of `call` tokens costs. The best places to cut the rows in order of
    length, by dynamic programming.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    apart = cost_of(1, call, width)
    least = [(0, 0)]  # the cost of the first n rows, and where their last group starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        least.append(
            min(
                (least[start][0] + apart + cost_of(end - start, longest, width), start)
                for start in range(max(0, end - most), end)
            )
        )
    groups = []
    end = len(order)
    while end:
        start = least[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]
