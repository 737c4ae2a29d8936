"""An answer to exercise 9."""


def is_counted(token_ids: list[int], assistant_id: int, end_id: int) -> list[bool]:
    """Marks the tokens that an assistant has to write."""
    counted: list[bool] = []
    is_speaking = False
    for token_id in token_ids:
        counted.append(is_speaking)
        if token_id == assistant_id:
            is_speaking = True
        elif token_id == end_id:
            is_speaking = False
    return counted
