"""Our own CPU kernels, optional: the engine runs on PyTorch's where they are not built.

`csrc/` holds the C++ sources, `build.py` compiles them where there is a compiler, `bindings.py`
finds and calls what was built. `engine/cpu_layers` makes layers of them.
"""
