# Two stages: `builder` installs the locked packages, `runtime` gets the installed files alone.
# It needs no BuildKit, so every Docker and both Composes can build it. docs/deployment.md says more, also
# how to pin the base by its digest.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
# Which build of torch: cpu, or cu126, cu130 … for CUDA (what uv's --torch-backend knows). Empty takes the
# wheel that lies in deploy/image/wheels.
ARG TORCH_BACKEND=cpu
WORKDIR /build
# A compiler for our own kernels, and strip. The image that runs has neither.
RUN (command -v c++ && command -v strip || (apt-get update && apt-get install -y --no-install-recommends g++ binutils)) > /dev/null
COPY deploy/image/uv.txt ./
RUN python -m venv /opt/uv \
 && /opt/uv/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r uv.txt \
 && python -m venv --without-pip /app/venv
COPY deploy/image/wheels /wheels
COPY pyproject.toml requirements.lock ./
# A hash of requirements.lock that does not fit ends the build. The bytecode is compiled here: nothing can be
# written at run time.
RUN VIRTUAL_ENV=/app/venv /opt/uv/bin/uv pip install --quiet --no-cache --compile-bytecode \
      --find-links /wheels ${TORCH_BACKEND:+--torch-backend=${TORCH_BACKEND}} \
      --constraint requirements.lock -r pyproject.toml --extra tracing --extra celery \
 # Removes the packages' own tests, and torch's headers, which only a compiler needs: 260 MB.
 && cd /app/venv/lib/python3.*/site-packages \
 && rm -r torch/test torch/include && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find mpmath networkx numpy sympy -type d -name tests -prune -exec rm -r {} + \
 # Symbols that only a debugger reads: 89 MB.
 && strip --strip-unneeded torch/lib/libtorch_cpu.so
# Our own kernels, for any x86-64.
COPY src/engine/kernels /app/src/engine/kernels
RUN python /app/src/engine/kernels/build.py
COPY LICENSE /app/
COPY src /app/src
RUN python -m compileall -q /app/src

FROM ${BASE_IMAGE} AS runtime
# The numbers are fixed, so that Kubernetes can see that the user is not root.
RUN groupadd --gid 10001 app \
 && useradd --uid 10001 --gid app --no-create-home --home-dir /models --shell /usr/sbin/nologin app \
 && install -d -o app -g app /models /keys /usage /batches
# Separate layers: a change of the code keeps the packages' layer, in the registry and on each node.
COPY --from=builder /app/venv /app/venv
COPY --from=builder /app/LICENSE /app/LICENSE
COPY --from=builder /app/src /app/src
WORKDIR /app
ENV PATH=/app/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    MODEL_NAME=storyteller \
    MODEL_CACHE_DIR=/models \
    BATCH_DIR=/batches \
    HF_HOME=/models/.huggingface
VOLUME /models
EXPOSE 8000
USER 10001:10001
# Readiness, not liveness: dependents of this container send requests.
HEALTHCHECK --interval=5s --timeout=5s --start-period=600s --retries=3 CMD ["python", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + (os.environ.get('PORT') or '8000') + '/health/ready', timeout=4)"]
# No shell between Docker and the server, so SIGTERM reaches it; it ends what runs and exits with 0.
CMD ["python", "-m", "src.main"]
# Last, as they change with every commit.
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llm-inference" \
      org.opencontainers.image.description="An LLM inference service" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
