"""Kernels of our own for what a step on a CPU spends its time with.

`kernels.cpp` has them, `build.py` compiles them where there is a compiler, `library.py` finds what
was built, `linears.py` and `layer.py` make layers of them. Without them PyTorch's kernels do the
same work.
"""
