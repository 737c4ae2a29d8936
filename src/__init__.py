"""An LLM inference service: FastAPI around one engine that runs any HuggingFace causal model."""

__version__ = "0.1.0"
