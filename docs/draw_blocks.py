"""Draws docs/blocks.svg: the blocks of three sequences, as the engine's own scheduler assigns them.

Two chats of one tenant have the same system prompt; another tenant sends the same text. The blocks
of an ended sequence are left in the cache.
"""

from dataclasses import dataclass
from html import escape

from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import Block, BlockPool
from src.engine.scheduling.kv_cache_manager import KVCacheManager
from src.engine.scheduling.sequence import Sequence

BLOCK_SIZE, NUM_BLOCKS = 4, 16
SYSTEM = ["You", "are", "a", "brief", "helper", ".", "", "|"]  # eight pieces stand for eight tokens
CELL, ROW, LEFT, GAP = 46, 26, 170, 12
COLORS = {"shared": "#4c78a8", "own": "#72b7b2", "other": "#e45756", "ended": "#b8b8b8"}


@dataclass(frozen=True)
class Drawn:
    """A sequence of the figure: its name, its pieces of text and the color of its own blocks."""

    name: str
    pieces: list[str]
    tenant: str
    color: str


SEQUENCES = [
    Drawn("chat that has ended", [*SYSTEM, "Name", "a", "fish", "!", "Cod"], "a", "ended"),
    Drawn("chat 1, key A", [*SYSTEM, "What", "is", "a", "cat", "?", "An"], "a", "own"),
    Drawn("chat 2, key A", [*SYSTEM, "Sing", "!"], "a", "own"),
    Drawn("chat 3, key B", [*SYSTEM, "Sing", "!"], "b", "other"),
]


def assign() -> tuple[BlockPool, list[Sequence]]:
    """Lets the scheduler's cache assign the blocks; the first sequence ends before the last."""
    pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
    cache = KVCacheManager(pool)
    ids: dict[str, int] = {}
    sequences: list[Sequence] = []
    for drawn in SEQUENCES:
        token_ids = [ids.setdefault(piece, len(ids)) for piece in drawn.pieces]
        request = Request(drawn.name, token_ids, SamplingParams(), tenant=drawn.tenant)
        sequence = Sequence(request, token_ids=token_ids)
        cache.prepare(sequence)
        cache.allocate(sequence)
        sequence.num_computed_tokens = len(token_ids)
        cache.register(sequence)
        sequences.append(sequence)
    cache.free(sequences[0])
    return pool, sequences[1:]


def draw() -> str:
    """Returns the figure as SVG."""
    pool, sequences = assign()
    colors, texts = {}, {}
    for block in pool._free.values():
        if block.digest is not None:
            colors[block.index], texts[block.index] = "ended", SEQUENCES[0].pieces[8:12]
    shapes: list[str] = []
    for row, (drawn, sequence) in enumerate(zip(SEQUENCES[1:], sequences, strict=True)):
        for number, block in enumerate(sequence.blocks):
            colors[block.index] = "shared" if block.num_users > 1 else drawn.color
            texts[block.index] = drawn.pieces[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]
        shapes += _table(row, drawn.name, sequence.blocks, colors)
    for number in range(NUM_BLOCKS):
        shapes += _block(number, texts.get(number, []), colors.get(number))
    width, height = LEFT + 8 * (CELL * 2 + GAP) + GAP, 4 * (ROW + GAP) + 2 * (3 * ROW) + 40
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="13" role="img"'
        ' aria-label="Block tables of three sequences, and the blocks that they share">'
    )
    background = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, background, *shapes, "</svg>", ""])


def _table(row: int, name: str, blocks: list[Block], colors: dict[int, str]) -> list[str]:
    """Draws a sequence's name and its block table."""
    y = GAP + row * (ROW + GAP)
    shapes = [_text(GAP, y + 18, name)]
    for number, block in enumerate(blocks):
        x = LEFT + number * (CELL + 4)
        shapes.append(_box(x, y, CELL, ROW, COLORS[colors[block.index]]))
        shapes.append(_text(x + CELL / 2, y + 18, str(block.index), "middle"))
    return shapes


def _block(number: int, pieces: list[str], color: str | None) -> list[str]:
    """Draws a block of the cache with its tokens; a white one is free."""
    x = LEFT + number % 8 * (CELL * 2 + GAP)
    y = 4 * (ROW + GAP) + number // 8 * 3 * ROW
    shapes = [_text(GAP, y + 18, "KV cache, blocks of 4")] if not number else []
    shapes.append(_box(x, y, CELL * 2, 2 * ROW, COLORS[color] if color else "#ffffff"))
    shapes.append(_text(x + 4, y + 15, str(number)))
    shapes.append(_text(x + CELL, y + 40, " ".join(pieces), "middle", 10))
    return shapes


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width}" height="{height}" rx="3" fill="{fill}"'
        ' fill-opacity="0.55" stroke="#404040"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="#202020">'
        f"{escape(text)}</text>"
    )
