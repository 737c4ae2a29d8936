"""Exercise 6: the cached part of a prompt."""


def num_cached_tokens(prompt: list[int], earlier: list[list[int]], block_size: int) -> int:
    """Returns how many tokens of a prompt need not be computed.

    The cache holds the full blocks of all earlier prompts; a last block that is not full is not
    shared. A block can be used if it and all blocks before it are equal to those of one earlier
    prompt. The block with the prompt's last token is always computed.

    Args:
        prompt: token ids, at least one.
        earlier: prompts that were computed before; nothing of them has been dropped.
        block_size: tokens of a block.
    """
    raise NotImplementedError
