"""An answer to exercise 6."""


def num_cached_tokens(prompt: list[int], earlier: list[list[int]], block_size: int) -> int:
    """Returns how many tokens of a prompt need not be computed."""
    prefixes = {
        tuple(other[:end])
        for other in earlier
        for end in range(block_size, len(other) + 1, block_size)
    }
    num_cached = 0
    for end in range(block_size, len(prompt), block_size):
        if tuple(prompt[:end]) not in prefixes:
            break
        num_cached = end
    return num_cached
