"""`LoraState`: the adapters of a step, and what they add to the model's linear layers.

Each linear layer has a forward hook. It adds the updates to the rows of sequences with an adapter
and leaves all other rows as they are, bit for bit. The matrices of a step's adapters are joined, so
that a layer makes two products, however many adapters there are; a mask keeps each row to the
columns of its own adapter.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from src.engine.attention.packed_attention import PackedAttention
from src.engine.attention.packed_step import Segment, Step
from src.engine.cpu_layers.linear import FastLinear
from src.engine.lora.adapter import LoraAdapter, LoraWeights
from src.engine.scheduling.step import ScheduledSequence


@dataclass(slots=True)
class LoraRows:
    """Rows of a pack with adapters.

    Args:
        adapters: each once.
        rows: (num_adapted,) int64, their places in the pack; None for all rows.
        indices: (num_adapted,) int64, the adapter of each.
        masks: by ranks of the adapters; True where a row must not see another adapter's column.
    """

    adapters: tuple[LoraAdapter, ...]
    rows: torch.Tensor | None
    indices: torch.Tensor
    masks: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    def mask(self, ranks: tuple[int, ...]) -> torch.Tensor:
        """Returns the mask of joined matrices, (num_adapted, sum of ranks)."""
        if ranks not in self.masks:
            device = self.indices.device
            owners = torch.arange(len(ranks), device=device).repeat_interleave(
                torch.tensor(ranks, device=device)
            )
            self.masks[ranks] = owners != self.indices[:, None]
        return self.masks[ranks]


@dataclass(frozen=True, slots=True)
class Division:
    """A step divided into sequences with and without an adapter.

    Args:
        adapted: step of the sequences with an adapter, and their rows in the pack.
        plain: of the others.
    """

    adapted: tuple[Step, torch.Tensor]
    plain: tuple[Step, torch.Tensor]


class LoraState:
    """Adapters of the current step; the engine's thread uses it alone."""

    def __init__(self) -> None:
        self.rows: LoraRows | None = None
        self.division: Division | None = None
        self.shapes: dict[str, tuple[int, int]] = {}
        self.like = torch.empty(0)
        self._joined: dict[str, tuple[tuple[LoraAdapter, ...], LoraWeights]] = {}

    def attach(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """Adds hooks to the linear layers of a model's decoder; returns all modules by name.

        The head and the experts of a mixture are left out: they do not see a row for each token.
        """
        modules = dict(model.named_modules())
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        for name, module in modules.items():
            shape = _shape(module)
            if shape is not None and module is not head and ".experts." not in name:
                self.shapes[name] = shape
                module.register_forward_hook(self._create_hook(name))
        self.like = next(model.parameters()).detach()[:0]
        return modules

    def prepare(
        self,
        attention: PackedAttention,
        scheduled: list[ScheduledSequence],
        segments: list[Segment],
    ) -> None:
        """Sets the adapters of the next forward pass."""
        self.rows = self.division = None
        adapters = [item.sequence.request.adapter for item in scheduled]
        used = tuple({one.key: one for one in adapters if one is not None}.values())
        if not used:
            self._joined.clear()  # no weights of unloaded adapters stay in memory
            return
        numbers = {one.key: number for number, one in enumerate(used)}
        owners = [numbers[one.key] if one is not None else -1 for one in adapters]
        sizes = [segment.num_tokens for segment in segments]
        indices = torch.tensor(owners).repeat_interleave(torch.tensor(sizes)).to(self.like.device)
        rows = (indices >= 0).nonzero()[:, 0]
        if -1 not in owners:
            self.rows = LoraRows(used, None, indices)
            return
        self.rows = LoraRows(used, rows, indices[rows])
        size, device = attention.cache.layout.block_size, self.like.device
        parts = [
            [one for one, owner in zip(segments, owners, strict=True) if (owner >= 0) is adapted]
            for adapted in (True, False)
        ]
        self.division = Division(
            (Step.create(parts[0], size, device), rows),
            (Step.create(parts[1], size, device), (indices < 0).nonzero()[:, 0]),
        )

    def _create_hook(
        self, name: str
    ) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if self.rows is not None:
                self._add(name, self.rows, inputs[0], output)

        return add

    def _add(self, name: str, rows: LoraRows, inputs: torch.Tensor, output: torch.Tensor) -> None:
        """Adds the adapters' updates of a layer to its output, in place."""
        weights = self._join(name, rows.adapters)
        if weights is None:
            return
        flat, target = inputs.flatten(0, -2), output.flatten(0, -2)
        assert target.data_ptr() == output.data_ptr()
        if rows.rows is not None:
            flat = flat[rows.rows]
        assert len(flat) == len(rows.indices)
        reduced = flat.to(weights.a.dtype) @ weights.a.T
        if len(rows.adapters) > 1:
            ranks = tuple(
                one.weights[name].rank if name in one.weights else 0 for one in rows.adapters
            )
            reduced.masked_fill_(rows.mask(ranks), 0)
        update = (reduced @ weights.b.T).to(target.dtype)
        if rows.rows is None:
            target += update
        else:
            target.index_add_(0, rows.rows, update)

    def _join(self, name: str, adapters: tuple[LoraAdapter, ...]) -> LoraWeights | None:
        """Returns a layer's matrices of several adapters side by side; None if it has none."""
        if len(adapters) == 1:
            return adapters[0].weights.get(name)
        known = self._joined.get(name)
        if known is not None and known[0] == adapters:
            return known[1]
        parts = [one.weights[name] for one in adapters if name in one.weights]
        if not parts:
            return None
        joined = LoraWeights(
            torch.cat([one.a for one in parts]), torch.cat([one.b for one in parts], dim=1)
        )
        self._joined[name] = (adapters, joined)
        return joined


class DividedLayer(nn.Module):
    """A fused layer for rows without adapter, and the original layer for the others.

    Args:
        fused: computes a whole layer at once, without hooks.
        original: the layer that it replaces.
        state: of the step.
        attention: knows the step of the rows that are computed.
    """

    def __init__(
        self, fused: nn.Module, original: nn.Module, state: LoraState, attention: PackedAttention
    ) -> None:
        super().__init__()
        self.fused, self.original = fused, original
        self._state, self._attention = state, attention

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Maps (1, num_tokens, size) to the same shape."""
        division = self._state.division
        if division is not None:
            return self._divide(division, hidden_states, args, kwargs)
        layer = self.fused if self._state.rows is None else self.original
        output: torch.Tensor = layer(hidden_states, *args, **kwargs)
        return output

    def _divide(
        self,
        division: Division,
        hidden_states: torch.Tensor,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> torch.Tensor:
        step, rows = self._attention.step, self._state.rows
        assert rows is not None
        output = torch.empty_like(hidden_states)
        try:
            self._attention.step, places = division.plain
            output[:, places] = self.fused(
                hidden_states[:, places], *args, **_select(kwargs, places)
            )
            self._attention.step, places = division.adapted
            self._state.rows = replace(rows, rows=None)
            output[:, places] = self.original(
                hidden_states[:, places], *args, **_select(kwargs, places)
            )
        finally:
            self._attention.step, self._state.rows = step, rows
        return output


def _select(kwargs: dict[str, object], places: torch.Tensor) -> dict[str, object]:
    """Selects rows of the arguments of a layer that have one for each token."""
    selected = dict(kwargs)
    positions = kwargs.get("position_ids")
    if isinstance(positions, torch.Tensor):
        selected["position_ids"] = positions[:, places]
    angles = kwargs.get("position_embeddings")
    if isinstance(angles, tuple):
        selected["position_embeddings"] = tuple(angle[:, places] for angle in angles)
    return selected


def divide_layers(
    model: nn.Module,
    originals: dict[str, nn.Module],
    state: LoraState,
    attention: PackedAttention,
) -> None:
    """Puts a `DividedLayer` in place of each layer that was fused.

    Args:
        model: after fusion.
        originals: all its modules before, by their names.
        state: of the steps.
        attention: of the model's runner.
    """
    for name, module in list(model.named_modules()):
        original = originals.get(name)
        if original is not None and original is not module:
            divided = DividedLayer(module, original, state, attention)
            model.set_submodule(name, divided)


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Returns (out_features, in_features) of a linear layer; None for other modules."""
    if isinstance(module, FastLinear | nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):  # gpt2's
        return module.nf, module.nx
    return None
