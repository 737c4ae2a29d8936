"""llama.cpp through its C interface, like its own `batched` example; see `benchmarks.peers.peer`.

llama-cpp-python's `Llama` supports one sequence at a time, so the batch is made here: all sequences
share one `llama_decode` a step, and each has its own sampler chain.

On a processor with AMX its weights are not repacked for AMX. GCC 12 loses writes to the tile
configuration, so llama.cpp crashes at its first 8-bit product.
"""

import sys
from collections.abc import Iterable
from ctypes import c_bool, c_void_p, create_string_buffer
from pathlib import Path

import llama_cpp

from benchmarks.peers.gguf_layout import FILE_NAME
from benchmarks.peers.peer import NUM_THREADS, Generate, main
from benchmarks.workload import Request

MAX_TOKENS = 256
"""Context length of a sequence: prompt and new tokens."""
TEXT_SIZE = 2**14  # bytes
ERROR = 4  # llama.cpp's GGML_LOG_LEVEL_ERROR
CONTEXTS = {
    "float32": {
        "type_k": llama_cpp.GGML_TYPE_F32,
        "type_v": llama_cpp.GGML_TYPE_F32,
        "flash_attn_type": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    },
    "8-bit": {},
}
"""Options for float32. By default keys and values are float16 and flash attention rounds queries to
that; without it this is also faster.
"""


@llama_cpp.llama_log_callback
def log(level: int, text: bytes, _: c_void_p) -> None:
    """Passes errors through, of the thousands of lines that loading logs."""
    if level == ERROR:
        print(text.decode(), file=sys.stderr, end="")


def load(model: Path, precision: str) -> Generate:
    """Keeps a context for each batch size."""
    llama_cpp.llama_log_set(log, c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = "amx_int8" not in Path("/proc/cpuinfo").read_text()
    loaded = llama_cpp.llama_model_load_from_file(str(model / FILE_NAME).encode(), params)
    assert loaded is not None, f"llama.cpp does not load {model}"
    contexts: dict[int, Sequences] = {}

    def generate(batch: list[Request]) -> list[list[int]]:
        size = len(batch)
        if size not in contexts:
            contexts[size] = Sequences(loaded, size, CONTEXTS[precision])
        return contexts[size].generate(batch)

    return generate


class Sequences:
    """Creates a context for a number of parallel sequences."""

    def __init__(self, model: object, size: int, settings: dict[str, int]) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = size * MAX_TOKENS
        params.n_batch = size * MAX_TOKENS
        params.n_seq_max = size
        params.n_threads = params.n_threads_batch = NUM_THREADS
        for name, value in settings.items():
            setattr(params, name, value)
        self._context = llama_cpp.llama_init_from_model(model, params)
        assert self._context is not None, "llama.cpp makes no context"
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self._memory = llama_cpp.llama_get_memory(self._context)

    def generate(self, requests: list[Request]) -> list[list[int]]:
        """Computes all prompts at once, then a token of each sequence in each step."""
        llama_cpp.llama_memory_clear(self._memory, True)
        samplers = [sampler(request, seed) for seed, request in enumerate(requests)]
        prompts = [self._tokenize(request.prompt) for request in requests]
        results: list[list[int]] = [[] for _ in requests]
        ends = self._decode((row, 0, prompt) for row, prompt in enumerate(prompts))
        for step in range(1, requests[0].max_tokens + 1):
            for row, chain in enumerate(samplers):
                token = llama_cpp.llama_sampler_sample(chain, self._context, ends[row])
                results[row].append(token)
            if step < requests[0].max_tokens:
                ends = self._decode(
                    (row, len(prompts[row]) + len(tokens) - 1, tokens[-1:])
                    for row, tokens in enumerate(results)
                )
        for chain, token_ids in zip(samplers, results, strict=True):
            llama_cpp.llama_sampler_free(chain)
            self._detokenize(token_ids)
        return results

    def _decode(self, parts: Iterable[tuple[int, int, list[int]]]) -> list[int]:
        """Computes parts (sequence, first position, tokens); returns the index of each part's last
        token.
        """
        batch = self._batch
        count, ends = 0, []
        for row, start, token_ids in parts:
            for offset, token_id in enumerate(token_ids):
                batch.token[count] = token_id
                batch.pos[count] = start + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = row
                batch.logits[count] = offset == len(token_ids) - 1
                count += 1
            ends.append(count - 1)
        batch.n_tokens = count
        status = llama_cpp.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode: {status}"
        return ends

    def _tokenize(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (llama_cpp.llama_token * MAX_TOKENS)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), tokens, MAX_TOKENS, c_bool(False), c_bool(False)
        )
        return list(tokens[:count])

    def _detokenize(self, token_ids: list[int]) -> None:
        c_tokens = (llama_cpp.llama_token * len(token_ids))(*token_ids)
        text = create_string_buffer(TEXT_SIZE)
        size = llama_cpp.llama_detokenize(
            self._vocab, c_tokens, len(token_ids), text, TEXT_SIZE, c_bool(True), c_bool(False)
        )
        assert size >= 0, "the text is longer than the buffer"


def sampler(request: Request, seed: int) -> object:
    """Creates a chain of llama.cpp's samplers; each request has its own seed."""
    params = llama_cpp.llama_sampler_chain_default_params()
    chain = llama_cpp.llama_sampler_chain_init(params)
    if request.temperature == 0:
        stages = [llama_cpp.llama_sampler_init_greedy()]
    else:
        stages = [
            llama_cpp.llama_sampler_init_top_p(request.top_p, 1),
            llama_cpp.llama_sampler_init_temp(request.temperature),
            llama_cpp.llama_sampler_init_dist(seed),
        ]
    for stage in stages:
        llama_cpp.llama_sampler_chain_add(chain, stage)
    return chain


if __name__ == "__main__":
    main(__doc__, load)
