"""OpenVINO GenAI's `ContinuousBatchingPipeline`; see `benchmarks.peers.peer`.

On a CPU with bfloat16 OpenVINO computes in it by default, with an 8-bit KV cache. The float32 class
overrides both.
"""

from pathlib import Path

import openvino_genai

from benchmarks.peers.peer import NUM_THREADS, Generate, main
from benchmarks.workload import Request

CACHE_SIZE = 2
"""GB for keys and values; 32 sequences of 96 tokens need a fraction of it."""
PROPERTIES = {
    "float32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
    "8-bit": {},
}


def load(model: Path, precision: str) -> Generate:
    """Disables the prefix cache; no two prompts have a common prefix."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = CACHE_SIZE
    scheduler.enable_prefix_caching = False
    properties = PROPERTIES[precision] | {"INFERENCE_NUM_THREADS": NUM_THREADS}
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
    tokenizer = pipeline.get_tokenizer()

    def generate(batch: list[Request]) -> list[list[int]]:
        encoded = [tokenizer.encode(r.prompt, add_special_tokens=False) for r in batch]
        config = [sampling(request, seed) for seed, request in enumerate(batch)]
        results = pipeline.generate([encoding.input_ids for encoding in encoded], config)
        token_ids = [list(result.m_generation_ids[0]) for result in results]
        tokenizer.decode(token_ids)
        return token_ids

    return generate


def sampling(request: Request, seed: int) -> openvino_genai.GenerationConfig:
    """Returns the options of a request, each with its own seed, so that draws differ."""
    config = openvino_genai.GenerationConfig(max_new_tokens=request.max_tokens, ignore_eos=True)
    if request.temperature > 0:
        config.do_sample = True
        config.temperature = request.temperature
        config.top_p = request.top_p
        config.rng_seed = seed
    return config


if __name__ == "__main__":
    main(__doc__, load)
