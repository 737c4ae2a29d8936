"""Exercise 9: tokens that the loss of a chat model counts."""


def is_counted(token_ids: list[int], assistant_id: int, end_id: int) -> list[bool]:
    """Marks the tokens that an assistant has to write.

    A conversation is a sequence of turns. Each begins with the token of its role and ends with
    `end_id`. The assistant writes the text of its turns and their ends, but not the role's token.

    Args:
        token_ids: of a conversation.
        assistant_id: token of the assistant's role; other roles have other tokens.
        end_id: token that ends each turn.

    Returns:
        True for each token that counts, else False.
    """
    raise NotImplementedError
