"""Attention of a whole step by PyTorch's FlashAttention, in one call a layer.

The keys and values stay in their blocks: the kernel reads them through the block tables, and makes
neither masks nor padding. Decodes, chunks of prompts and drafts are segments alike. The queries of
a segment are its sequence's last tokens, so causality is aligned to the bottom right.

Source: Dao 2023, "FlashAttention-2", arXiv:2307.08691, in the form of
`torch.nn.attention.varlen`. It needs CUDA, 16 bits, and blocks of a multiple of 256 tokens.
"""

import torch
from torch.nn.attention.varlen import varlen_attn_out

from src.engine.attention.layer import AttentionLayer
from src.engine.attention.packed_step import Step
from src.engine.attention.torch_attention import TorchAttention, store
from src.engine.kernels.arguments import Projections

BLOCK_SIZE_MULTIPLE = 256
MAX_HEAD_DIM = 256
MIN_CAPABILITY = (8, 0)
"""Compute capability of the oldest GPUs that FlashAttention runs on (Ampere)."""

VECTOR_SIZE = 8
"""Numbers of 16 bits that the kernel loads at once; rows begin at multiples of it."""

NUM_SPLITS = 1
"""Parts of the keys of a sequence that are attended in parallel and then combined.

More parts would depend on the batch, and a request's rounding with them.
"""


class VarlenAttention:
    """FlashAttention over blocks; PyTorch's other attention for layers that it cannot compute."""

    def __init__(self) -> None:
        self._fallback = TorchAttention()

    def __call__(
        self, step: Step, layer: AttentionLayer, tokens: Projections, output: torch.Tensor
    ) -> None:
        if not can_attend(layer, tokens):
            self._fallback(step, layer, tokens, output)
            return
        store(step, layer, tokens)
        lengths, window = step.find_lengths(), layer.options.window
        varlen_attn_out(
            output,
            tokens.query,
            layer.keys,
            layer.values,
            lengths.query_starts,
            lengths.key_starts,  # demanded by FlashAttention 2, though block tables replace it
            lengths.max_num_queries,
            lengths.max_num_keys,
            scale=layer.options.scaling,
            # Keys before and after a query's own position; -1 is no limit.
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=tokens.query.shape[1] != tokens.key.shape[1],
            seqused_k=lengths.num_keys,
            block_table=step.block_tables,
            num_splits=NUM_SPLITS,
        )


def is_supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Checks the kernel's demands on the device and the number format."""
    return (
        device.type == "cuda"
        and dtype in {torch.float16, torch.bfloat16}
        and torch.version.hip is None  # ROCm's attention takes no block tables
        and torch.cuda.get_device_capability(device) >= MIN_CAPABILITY
    )


def can_attend(layer: AttentionLayer, tokens: Projections) -> bool:
    """Checks the kernel's demands on a layer's options and heads."""
    query, dim = tokens.query, layer.keys.shape[-1]
    return (
        layer.options.is_plain
        and layer.keys.dtype == query.dtype
        and dim == layer.values.shape[-1]
        and dim <= MAX_HEAD_DIM
        and query.stride(-1) == 1
        and not any(
            number % VECTOR_SIZE for number in (dim, query.storage_offset(), *query.stride()[:-1])
        )
    )
