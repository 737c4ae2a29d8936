"""CPU kernels in C++, optional: without them the engine runs on PyTorch's.

`csrc/` holds the C++ sources, `build.py` compiles them if there is a compiler, `loading.py` selects
a compiled variant and `bindings.py` calls it. They know tensors, not models; `engine/cpu_layers`
builds layers on them.
"""
