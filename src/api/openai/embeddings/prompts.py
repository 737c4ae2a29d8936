"""Inputs of `/v1/embeddings` as the model gets them: after its prompt, and cut on request."""

from src.api.openai.embeddings.schemas import EmbeddingRequest
from src.inference import InferenceEngine
from src.text.tokenization import Prompt


async def read_prompts(body: EmbeddingRequest, engine: InferenceEngine) -> list[Prompt]:
    """Returns the inputs; texts that need no change stay texts, which the engine tokenizes."""
    prefix, limit = body.prompt(engine), body.truncate_prompt_tokens
    prompts: list[Prompt] = [
        prefix + item if isinstance(item, str) else item for item in body.input
    ]
    if limit is None:
        return prompts
    length = engine.max_model_len if limit == -1 else limit
    return [await _cut(prompt, length, engine) for prompt in prompts]


async def _cut(prompt: Prompt, length: int, engine: InferenceEngine) -> Prompt:
    """Returns the first tokens of a prompt; special tokens at the end of a text stay there."""
    if not isinstance(prompt, str):
        return prompt[:length]
    token_ids = await engine.codec.encode(prompt, add_special_tokens=True)
    special = engine.codec.token_bytes.special_token_ids
    num_special = 0
    while num_special < min(len(token_ids), length) and token_ids[-1 - num_special] in special:
        num_special += 1
    end = token_ids[len(token_ids) - num_special :]
    return token_ids if len(token_ids) <= length else token_ids[: length - num_special] + end
