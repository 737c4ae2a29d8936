"""CTranslate2's `Generator.generate_batch`; see `benchmarks.peers.peer`."""

from pathlib import Path

import ctranslate2
from tokenizers import Tokenizer

from benchmarks.peers.peer import NUM_THREADS, Generate, main
from benchmarks.workload import Request

COMPUTE_TYPES = {"float32": "float32", "8-bit": "int8"}


def load(model: Path, precision: str) -> Generate:
    """Excluding the prompt from the result lets CTranslate2 compute it in one pass."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    generator = ctranslate2.Generator(
        str(model), compute_type=COMPUTE_TYPES[precision], intra_threads=NUM_THREADS
    )

    def generate(batch: list[Request]) -> list[list[int]]:
        prompts = [
            encoding.tokens for encoding in tokenizer.encode_batch([r.prompt for r in batch])
        ]
        results = generator.generate_batch(
            prompts,
            max_length=batch[0].max_tokens,
            include_prompt_in_result=False,
            **sampling(batch[0]),
        )
        token_ids = [result.sequences_ids[0] for result in results]
        tokenizer.decode_batch(token_ids)
        return token_ids

    return generate


def sampling(request: Request) -> dict[str, float]:
    """Returns sampling options; greedy is the default."""
    if request.temperature == 0:
        return {}
    return {
        "sampling_topk": 0,  # no top-k
        "sampling_topp": request.top_p,
        "sampling_temperature": request.temperature,
    }


if __name__ == "__main__":
    main(__doc__, load)
