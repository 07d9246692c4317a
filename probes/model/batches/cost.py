"""Cost of a batch, and where rows are cut into batches so that they cost least."""

TOKEN_BUDGET = 2048
"""Padded tokens per batch; on two CPU cores the throughput of a 135M model is flat around it."""
BATCH_COST = 1 / 32
"""Fixed cost of a batch, as a share of the token budget (measured: that of 64 tokens)."""


def cut(order: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """The cheapest way to cut `order` into consecutive batches within the budget. A batch costs its
    padded tokens and a fixed amount."""
    fixed = budget * BATCH_COST
    # For the first 0, 1, 2, … rows: the least cost, and where the last batch of that cut starts.
    costs, starts = [0.0], [0]
    for end, index in enumerate(order, start=1):
        fits = max(1, budget // max(1, lengths[index]))
        cost, start = min(
            (costs[start] + fixed + (end - start) * lengths[index], start)
            for start in range(max(0, end - fits), end)
        )
        costs.append(cost)
        starts.append(start)
    batches, end = [], len(order)
    while end:
        batches.append(order[starts[end] : end])
        end = starts[end]
    return batches[::-1]
