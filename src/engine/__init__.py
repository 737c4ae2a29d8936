"""The engine: token ids in, token ids out. Imports no web framework and no pydantic.

Two private names of libraries stay, as there are no public ones; tests fail when an upgrade breaks
them.

- `config._attn_implementation` of transformers, in `model/compatibility.py` and
  `cpu_layers/fusion.py`: `set_attn_implementation` has no getter, and a probe must leave the model
  as it was (test_compatibility.py, test_fusion.py).
- `torch.ops.mkldnn._linear_pointwise`, in `cpu_layers/linear.py`: oneDNN's product with a packed
  weight (test_linear.py).
"""
