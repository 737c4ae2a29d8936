"""Measuring commands; their results are in LOG.md. Each has --help.

- attacks: hostile requests beside a calm stream
- bench_model: builds the models that the others measure
- fairness: a calm key's first token beside another key's flood
- goals: promises of the engine: top-p, HTTP, arrival, disturbance, steps, memory
- memory: memory of a process beside its weights and KV cache
- parts: the gain of each part of the engine
- peers: our engine beside CTranslate2, OpenVINO GenAI and llama.cpp: `make bench-peers`
- quality: the loss of quality by quantization
- serving: systems side by side under load: `make bench`
- soak: overload with faults, for minutes: `make soak`
- steps: the parts of a step's time
- structured: structured output beside plain text
- tokenization: pauses of other threads while a megabyte is tokenized

Modules below them: `systems` opens a system as a function that runs jobs. `worker` runs each system
in a process of its own (`load`: clients over HTTP, `openai_load`: OpenAI's client, `offline`:
engines without HTTP). `workload` holds jobs, traces and their figures. `soak_clients`,
`soak_service` and `soak_workers` belong to `soak`.
"""
