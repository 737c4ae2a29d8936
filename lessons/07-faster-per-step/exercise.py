"""Exercise 7: accepting a draft."""


def accept(draft: list[int], chosen: list[int]) -> list[int]:
    """Returns the tokens that a step with a draft gives.

    These are the tokens of the draft as far as the model chose the same, and then one more token of
    the model's own.

    Args:
        draft: guessed tokens, perhaps none.
        chosen: the model's tokens, one more than the draft. The first follows the text so far, each
            other one follows the draft's token before it. So after a wrong guess they are of no
            use.
    """
    raise NotImplementedError
