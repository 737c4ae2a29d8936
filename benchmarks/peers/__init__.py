"""Our engine beside others on the same weights: `make bench-peers`; see `__main__`.

systems     opens each system as a function that runs jobs, and converts models for it
run_*       a peer's worker, and convert_* writes its models: with the python of its environment,
            whose packages are in the file of that name (`ctranslate2.txt`, ...)
peer        what the workers share            gguf_layout  where llama.cpp wants which tensor
machine     the machine's memory and arithmetic
roofline    the speed that they allow         agreement    whether a converted model is the same
records     what was measured, in JSON        summary      medians, ratios, goals
report      tables                            plot         the plot
"""
