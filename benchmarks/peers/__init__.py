"""Compares our engine with others on the same weights: `make bench-peers`; see `__main__`.

- systems: opens each system as a function that runs jobs, and converts models for it
- run_*: worker of a peer, run with its environment's python (packages: `ctranslate2.txt`, ...)
- convert_*: writes the models of a peer, in the same way
- peer: main loop of the workers
- gguf_layout: names and layouts of tensors in llama.cpp's format
- machine: bandwidth and arithmetic of the machine
- roofline: the speed that these allow
- agreement: compares a converted model's texts with HuggingFace's
- records: measurements, as JSON
- summary: medians, ratios, goals
- report: tables
- plot: the plot
"""
