"""Commands that measure; what they printed is in LOG.md. Each has --help.

serving       systems side by side under load: `make bench`
peers         our engine beside CTranslate2, OpenVINO GenAI and llama.cpp: `make bench-peers`
goals         whether the engine keeps what it promises
parts         what each part of the engine is worth
tokenization  how long tokenizing a megabyte stops other threads
soak          all kinds of clients at once, for minutes: `make soak`
bench_model   builds the models that the others measure

Below them: `systems` opens what is measured as a function that runs jobs, `worker` runs each in a
process of its own (`load`: clients over HTTP, `openai_load`: OpenAI's client, `offline`: engines
without HTTP), `workload` holds jobs, traces and the figures drawn from them. `soak` has clients of
its own (`soak_clients`) and a service with keys and Redis (`soak_service`).
"""
