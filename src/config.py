"""All settings, each defined once: type, bounds, default and description.

Values come from the environment, then from a file `.env` in the working directory. A test compares
`.env.example` and the table in docs/configuration.md with this file.
"""

import difflib
import re
from dataclasses import fields
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.core.model_names import check_names
from src.engine.config import (
    SETTING_NAMES,
    CacheDType,
    Device,
    DType,
    EngineConfig,
    EngineName,
    GenerationConfigName,
    Kernels,
    Quantization,
    ReasoningFormatName,
    ToolCallFormatName,
)
from src.engine.lora.settings import LoraSettings, parse_modules
from src.engine.sampling_params import MAX_TEMPERATURE
from src.errors import SettingsError

ENV_FILE = Path(".env")
TYPO_SIMILARITY = 0.85
"""Smallest similarity (difflib ratio) of a typo to a setting; other programs' names differ more."""

SECRETS = ("api_keys", "batch_token_secret")
KEY_SETTINGS = ("api_keys_file", "api_keys")
JWT_SETTINGS = ("jwt_key_file", "jwt_issuer", "jwt_audience")
PASSWORD = re.compile("//[^/]*@")
ORIGIN = re.compile(r"(http(?!.*:80$)|https(?!.*:443$))://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?")
Auth = Literal["none", "api_key", "jwt"]
JWTAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
Environment = Literal["development", "production"]
StorageFailure = Literal["open", "closed"]
BatchBackend = Literal["local", "celery"]
ReasoningField = Literal["both", "reasoning_content", "reasoning", "none"]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]


class Settings(BaseSettings):
    """The service's settings, immutable after start."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    model_name: str = Field(
        default="gpt2",
        min_length=1,
        description="The model to serve: `storyteller` (bundled, needs no download), a folder, a"
        " `.gguf` file, or a hub id with an optional `@revision` and `:file.gguf`. If it is not set"
        " and the default cannot be downloaded, `storyteller` is served.",
    )
    served_model_name: str | None = Field(
        default=None,
        description="Names of the model in requests, separated by commas; answers carry the first."
        " Empty: the last part of the folder's path or of the hub id.",
    )
    model_cache_dir: Path = Field(
        default=Path("./models"), description="Folder for models downloaded from the hub."
    )
    max_model_len: int | None = Field(
        default=None,
        ge=2,
        description="Context length in tokens, prompt and new tokens together. Empty: the model's.",
    )
    device: Device = Field(
        default="auto",
        description="Device of the model; `auto` is CUDA if available, else the CPU.",
    )
    dtype: DType = Field(
        default="auto",
        description="Number format of the weights; `auto` is float32 on the CPU, and on CUDA"
        " bfloat16 if checkpoint and GPU support it, else float16.",
    )
    quantization: Quantization = Field(
        default="none",
        description="Quantization of linear layers on a CPU: `fp16` halves their memory, `int8`"
        " quarters it and is faster. `none` is exact.",
    )
    kernels: Kernels = Field(
        default="auto",
        description="Kernels of a float32 model on a CPU: `native` (this project's C++, built by"
        " `make install` if there is a compiler) or `pytorch`. `auto` is `native` if built. On CUDA"
        " in 16 bits `auto` attends by FlashAttention over blocks; `pytorch` gathers them first.",
    )
    lora_modules: str = Field(
        default="",
        description="LoRA adapters to load at start, in PEFT's format: `name=folder`, several"
        ' separated by commas, or a JSON list of `{"name": …, "path": …}`. Requests name them in'
        " `model`.",
    )
    lora_dir: Path | None = Field(
        default=None,
        description="Folder of the adapters that `POST /v1/load_lora_adapter` may load. Empty: it"
        " loads none.",
    )
    max_loras: int = Field(
        default=16, ge=1, le=1024, description="Largest number of LoRA adapters in memory."
    )
    max_lora_rank: int = Field(
        default=64, ge=1, le=4096, description="Largest rank of a LoRA adapter."
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that comes with a model on this machine.",
    )
    chat_template: str | None = Field(
        default=None,
        description="Chat template: Jinja source, or the path of a file with it. Empty: the"
        " model's.",
    )
    tool_call_format: ToolCallFormatName = Field(
        default="auto",
        description="Format of the model's tool calls, which docs/openai.md describes. `auto`"
        " detects it from the chat template.",
    )
    reasoning_format: ReasoningFormatName = Field(
        default="auto",
        description="Format of the model's thoughts: `think` is text between `<think>` and"
        " `</think>`, `none` leaves them in the answer. `auto` detects it from the chat template.",
    )
    reasoning_field: ReasoningField = Field(
        default="both",
        description="Fields of `/v1/chat/completions` that hold the thought: `reasoning_content`,"
        " `reasoning`, `both`, or `none` to leave it out.",
    )
    enable_thinking: bool | None = Field(
        default=None,
        description="Thinking if a request does not choose. Empty: the chat template's default.",
    )

    max_length: int = Field(
        default=100, ge=1, description="New tokens if a request sets no `max_length`."
    )
    temperature: float = Field(
        default=0.7,
        ge=0,
        le=MAX_TEMPERATURE,
        description="Temperature if a request sets none, for all APIs; 0 is greedy decoding. If it"
        " is not set, the model's default counts, then 0.7 for `/generate` and 1 for the others.",
    )
    top_p: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Nucleus sampling (top-p) if a request sets none, for all APIs. If it is not"
        " set, the model's default counts, then 0.9 for `/generate` and 1 for the others.",
    )
    embedding_dimensions: str = Field(
        default="auto",
        pattern=r"^(auto|any|[1-9][0-9]{0,5}(,[1-9][0-9]{0,5}){0,63})$",
        description="Sizes to which requests may have embeddings cut (`dimensions`): `any`, or"
        " sizes separated by commas, for a model that was trained for it. `auto`: those that the"
        " model's files name.",
    )
    rerank_instruction: str = Field(
        default="Given a web search query, retrieve relevant passages that answer the query",
        min_length=1,
        max_length=4096,
        description="Task of rerank and score if a request sets no `instruction`. Default:"
        " Qwen3-Reranker's.",
    )
    rerank_labels: str = Field(
        default="yes,no",
        pattern=r"^[^,]{1,64},[^,]{1,64}$",
        description="The two answers that a reranker was trained to give, the one for a relevant"
        " document first, separated by a comma. Their first tokens are compared.",
    )
    generation_config: GenerationConfigName = Field(
        default="auto",
        description="Sampling parameters that requests leave out: `auto` takes the model's"
        " defaults, from its generation_config.json or GGUF file; `none` does not.",
    )

    environment: Environment = Field(
        default="development",
        description="`production` logs JSON and requires AUTH to be set; `development` logs"
        " readable lines.",
    )
    log_level: LogLevel = Field(default="INFO", description="Lowest level of messages to log.")
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. `0.0.0.0` is all IPv4 addresses, as a container needs;"
        " `::` is all of IPv6, and with several workers of IPv4 too.",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 is any free one."
    )
    listen_when_loaded: bool = Field(
        default=False,
        description="Listen only once the model is loaded: until then connections are refused, so a"
        " proxy tries another replica. With `false`, probes are answered meanwhile, and requests"
        " get 503.",
    )
    reload: bool = Field(
        default=False, description="Restart when the code changes; for development, with WORKERS=1."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Server processes, each with its own copy of the model.",
    )
    forwarded_allow_ips: str = Field(
        default="",
        description="Addresses or networks of trusted proxies: X-Forwarded-For from them counts."
        " Separated by commas. Empty: none.",
    )

    playground: bool = Field(default=True, description="Serve the playground to browsers at `/`.")
    cors_origins: str = Field(
        default="",
        description="Allowed CORS origins, such as `https://app.example.com`, separated by commas."
        " `*` is any origin, and requires AUTH=api_key or jwt. Empty: none.",
    )

    auth: Auth = Field(
        default="none",
        description="Authentication: `none` serves all clients, `api_key` clients with a key,"
        " `jwt` clients with a token of JWT_ISSUER.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File of API keys, written by `python -m src keys`; reread when it changes.",
    )
    api_keys: str | None = Field(
        default=None, repr=False, description="Content of such a file, instead of API_KEYS_FILE."
    )
    jwt_key_file: Path | None = Field(
        default=None,
        description="File of public keys that verify tokens, PEM or JWKS; reread when it changes.",
    )
    jwt_algorithm: JWTAlgorithm = Field(
        default="RS256", description="Signature algorithm of tokens; others are refused."
    )
    jwt_issuer: str | None = Field(default=None, description="Required claim `iss` of tokens.")
    jwt_audience: str | None = Field(default=None, description="Required claim `aud` of tokens.")

    engine: EngineName = Field(
        default="continuous",
        description="`continuous` batches all requests at each step (continuous batching);"
        " `reference` runs HuggingFace's `generate`, one request at a time.",
    )
    max_batch_size: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Sequences that run at the same time. With ENGINE=reference always one.",
    )
    max_num_batched_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of tokens in a step; a longer prompt takes several steps"
        " (chunked prefill). Empty: 128 on the CPU, 2048 on CUDA. No effect with"
        " ENGINE=reference.",
    )
    num_speculative_tokens: int = Field(
        default=15,
        ge=0,
        le=64,
        description="Largest number of draft tokens of speculative decoding by prompt lookup, used"
        " while few sequences run; the text is the same. 0 turns it off. No effect with"
        " ENGINE=reference.",
    )
    kv_cache_gb: float | None = Field(
        default=None,
        gt=0,
        description="Size of the KV cache in GiB. Empty: 40 % of the memory that is free once the"
        " model is loaded, on CUDA 80 %. No effect with ENGINE=reference.",
    )
    kv_cache_dtype: CacheDType = Field(
        default="auto",
        description="Format of keys and values in the KV cache. auto: the model's. In 16 bits the"
        " same memory holds twice as many tokens as in float32. No effect with ENGINE=reference.",
    )
    max_queue_size: int = Field(
        default=512,
        ge=0,
        le=10**6,
        description="Sequences that may wait in the queue; more requests get 503.",
    )
    queue_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=86400,
        description="Longest time in the queue until a request's first sequence runs; then it gets"
        " 503.",
    )
    timeout_seconds: float = Field(
        default=60,
        gt=0,
        le=86400,
        description="Longest time for a request to wait and run, together. Then its answer ends"
        " with the tokens so far, as at `max_tokens`; without any it gets 504.",
    )
    receive_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=86400,
        description="Longest time for a client to send a whole request; a slower one gets 408.",
    )
    send_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=86400,
        description="Longest time for a client to read on; then its connection is closed.",
    )
    keep_alive_seconds: float = Field(
        default=15,
        ge=0,
        le=86400,
        description="Silence of a stream after which it sends a ping, so that proxies do not close"
        " it, in the queue and in prefill too; its status is then 200. 0 sends none.",
    )
    hang_timeout_seconds: float = Field(
        default=120,
        gt=0,
        le=86400,
        description="Longest time of a step of the model. A longer one counts as hung: all requests"
        " fail, and the process exits with status 1.",
    )
    shutdown_grace_seconds: int = Field(
        default=30,
        ge=0,
        le=86400,
        description="Longest time for running requests to finish after SIGTERM.",
    )
    max_header_bytes: int = Field(
        default=2**15,
        ge=1024,
        le=2**20,
        description="Largest request line with headers, in bytes; a larger one gets 431.",
    )
    max_body_bytes: int = Field(
        default=2**21,
        ge=1024,
        le=2**30,
        description="Largest request body in bytes; a larger one gets 413.",
    )
    unknown_fields: Literal["refuse", "warn"] = Field(
        default="warn",
        description="Unknown fields in requests of OpenAI's and Anthropic's APIs, and tools that a"
        " server would run: `warn` leaves them out and names them in the header `Warning` and in"
        " the log, `refuse` answers 400. `/generate` always refuses unknown fields.",
    )
    max_json_depth: int = Field(
        default=500,
        ge=16,
        le=800,
        description="Largest nesting depth of a request's JSON; a deeper one gets 400.",
    )
    max_prompt_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**30,
        description="Largest prompt, or all messages of a chat, in UTF-8 bytes; a larger one gets"
        " 400. Empty: the limit of the model's context.",
    )
    max_stop_texts: int = Field(
        default=16,
        ge=0,
        le=256,
        description="Largest number of stop texts in a request; more get 400.",
    )
    max_stop_length: int = Field(
        default=128,
        ge=1,
        le=1024,
        description="Characters of the longest stop text; a longer one gets 400.",
    )
    max_request_sequences: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Largest number of sequences in a request, `n` for each prompt; more get 400."
        " Empty: MAX_BATCH_SIZE and MAX_QUEUE_SIZE together.",
    )
    max_request_tokens: int | None = Field(
        default=None,
        ge=1,
        le=10**12,
        description="Largest number of tokens in a request, its prompts and `n` times `max_tokens`;"
        " more get 400. Empty: no limit.",
    )
    max_request_logprobs: int = Field(
        default=2**20,
        ge=1,
        le=10**9,
        description="Largest number of log-probabilities in a request: sequences times tokens times"
        " (1 + alternatives), prompts included; more get 400.",
    )
    max_grammar_bytes: int = Field(
        default=2**18,
        ge=1,
        le=2**24,
        description="Largest schema, regex or other grammar of structured output, in bytes; a"
        " larger one gets 400.",
    )
    grammar_timeout_seconds: float = Field(
        default=5,
        gt=0,
        le=3600,
        description="Longest time to compile a grammar, waiting included. A slower one gets 400, or"
        " 503 if it had to wait. Also the longest time to apply the grammar to one answer.",
    )
    grammar_cache_size: int = Field(
        default=64,
        ge=1,
        le=10**4,
        description="Compiled grammars kept for later requests, each in a process of about 4 MB.",
    )
    grammar_memory_gb: float = Field(
        default=1,
        gt=0,
        le=10**4,
        description="Memory in GiB for the processes of all grammars; one of them may take a"
        " quarter of it.",
    )
    rate_limit_requests: int = Field(
        default=10,
        ge=1,
        le=10**9,
        description="Generation requests per client and RATE_LIMIT_PERIOD; a client is a key, or"
        " with AUTH=none an address. If it is not set, ENVIRONMENT=development with a loopback HOST"
        " has no such limit.",
    )
    rate_limit_period: int = Field(
        default=60, ge=1, le=86400, description="Period of the rate limits in seconds."
    )
    rate_limit_tokens: int | None = Field(
        default=None,
        ge=1,
        le=10**12,
        description="Tokens of prompts and answers per client and RATE_LIMIT_PERIOD. The largest"
        " possible number is reserved, and the rest returned. Empty: no limit.",
    )
    rate_limit_concurrent: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Requests of a client in progress at the same time. Empty: no limit.",
    )
    rate_limit_address_requests: int = Field(
        default=1000,
        ge=1,
        le=10**9,
        description="Requests per address (IPv6: per /64) and RATE_LIMIT_PERIOD, counted before"
        " authentication. No effect with AUTH=none.",
    )
    usage_log: Path | None = Field(
        default=None,
        description="File for a line of JSON about each request that used tokens. Empty: none.",
    )
    rate_limit_storage: str = Field(
        default="memory",
        pattern=r"^(memory|rediss?://.+)$",
        description="Storage of the rate limits: `memory` is per process, so replicas and workers"
        " multiply the limits; `redis://host:6379/0` (`rediss://` with TLS) is shared.",
    )
    rate_limit_storage_failure: StorageFailure = Field(
        default="open",
        description="Behaviour while Redis does not answer: `open` serves requests uncounted,"
        " `closed` answers those that need the model with 503.",
    )

    batch_dir: Path = Field(
        default=Path("./batches"),
        description="Folder of files and batches, created with the first file. Processes of one"
        " machine may share it. The file system must be local: SQLite's WAL does not work on NFS.",
    )
    batch_concurrency: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Lines of batches that a process answers at the same time; with"
        " BATCH_BACKEND=celery, lines of a chunk that a worker sends at the same time. So many"
        " background responses of a process run too.",
    )
    batch_max_lines: int = Field(
        default=50_000,
        ge=1,
        le=10**8,
        description="Largest number of lines of a batch; one with more fails.",
    )
    batch_max_file_bytes: int = Field(
        default=200 * 2**20,
        ge=1024,
        le=2**40,
        description="Largest file of `/v1/files` in bytes; a larger one gets 413.",
    )
    batch_quota_bytes: int = Field(
        default=2**31,
        ge=1024,
        le=2**50,
        description="Largest size of all files of a key together, in bytes; with AUTH=none of all"
        " clients. Answers of batches count, but are stored beyond it.",
    )

    batch_backend: BatchBackend = Field(
        default="local",
        description="`local` answers lines of batches in the service's own processes; `celery`"
        " hands them to workers over Redis, which send them to BATCH_SERVICE_URL.",
    )
    batch_broker_url: str | None = Field(
        default=None,
        pattern=r"^rediss?://.+$",
        repr=False,
        description="Redis of BATCH_BACKEND=celery, such as `redis://localhost:6379/1`. It must not"
        " evict keys; one with persistence (AOF) spares repeated work.",
    )
    batch_service_url: str = Field(
        default="http://localhost:8000",
        pattern=r"^https?://[^/]+/?$",
        description="Address to which Celery workers send lines: the service, or a load balancer"
        " before its replicas.",
    )
    batch_token_secret: str | None = Field(
        default=None,
        min_length=32,
        repr=False,
        description="Secret of 32 or more characters that signs the workers' line tokens; all"
        " servers that answer lines need the same. Empty: line tokens are not accepted.",
    )
    batch_chunk_lines: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Lines that a Celery worker gets at once; a chunk of 1 MiB is full before.",
    )
    batch_chunk_seconds: int = Field(
        default=600,
        ge=1,
        le=86400,
        description="Longest work of a Celery worker on a chunk; its open lines are handed out"
        " again then. Server and workers need the same value.",
    )
    batch_queue_lines: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="Lines of all batches of a process that are handed to Celery workers at the"
        " same time; their bodies are in memory.",
    )
    background_max_responses: int = Field(
        default=1000,
        ge=0,
        le=10**7,
        description="Stored background responses of a key, with AUTH=none of all clients; one more"
        " gets 429. 0: none, they are refused.",
    )
    background_ttl_seconds: int = Field(
        default=86400,
        ge=1,
        le=10**9,
        description="Lifetime of a background response after its end.",
    )

    _check_names = field_validator("served_model_name")(check_names)

    @field_validator("rerank_labels")
    @classmethod
    def _check_labels(cls, value: str) -> str:
        labels = [label.strip() for label in value.split(",")]
        if "" in labels or len(set(labels)) < len(labels):
            raise ValueError("the two answers must differ, and neither may be blank")
        return ",".join(labels)

    @model_validator(mode="after")
    def _check_lora(self) -> Self:
        num_modules = len(self.lora.modules) if self.lora else 0
        if num_modules > self.max_loras:
            raise ValueError(
                f"LORA_MODULES names {num_modules} adapters; MAX_LORAS={self.max_loras} are allowed"
            )
        return self

    @model_validator(mode="after")
    def _check_reload_with_workers(self) -> Self:
        if self.reload and self.workers > 1:
            raise ValueError(
                f"RELOAD=true works with WORKERS=1 alone, not with WORKERS={self.workers}"
            )
        return self

    @model_validator(mode="after")
    def _check_step_size(self) -> Self:
        budget = self.max_num_batched_tokens
        if budget is not None and budget < self.max_batch_size:
            raise ValueError(
                f"MAX_NUM_BATCHED_TOKENS={budget} is less than MAX_BATCH_SIZE="
                f"{self.max_batch_size}: each sequence needs a token in every step"
            )
        return self

    @model_validator(mode="after")
    def _check_batch_backend(self) -> Self:
        needed = ("batch_broker_url", "batch_token_secret")
        missing = [name.upper() for name in needed if getattr(self, name) is None]
        if self.batch_backend == "celery" and missing:
            raise ValueError(f"BATCH_BACKEND=celery needs {' and '.join(missing)}")
        if self.batch_backend == "celery" and find_spec("celery") is None:
            raise ValueError("BATCH_BACKEND=celery needs the package celery: install the extra")
        return self

    @model_validator(mode="after")
    def _check_origins(self) -> Self:
        origins = self.cors_origin_list
        if origins == ["*"] and self.auth == "none":
            raise ValueError(
                "CORS_ORIGINS=* with AUTH=none would let every web page opened on this network use"
                " the service: name the origins, or set AUTH"
            )
        for origin in origins if origins != ["*"] else []:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"CORS_ORIGINS: {origin} is not an origin as browsers send it, such as"
                    " https://app.example.com or http://localhost:3000 (lower case, no path, no"
                    " trailing slash, no default port)"
                )
        return self

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        """Refuses invalid addresses, which uvicorn ignores, and `*`, which trusts any client."""
        for proxy in value.split(",") if value else []:
            try:
                network = ip_network(proxy.strip())
            except ValueError as error:
                raise ValueError(f"each must be an address or a network: {error}") from None
            if not network.prefixlen:
                raise ValueError(
                    f"{proxy.strip()} is every address, so every client would be trusted"
                )
        return value

    @model_validator(mode="after")
    def _check_auth(self) -> Self:
        if self.environment == "production" and "auth" not in self.model_fields_set:
            raise ValueError(
                "ENVIRONMENT=production requires authentication to be chosen: set AUTH=api_key or"
                " AUTH=jwt, or AUTH=none to serve every client"
            )
        needed = {"none": (), "api_key": (), "jwt": JWT_SETTINGS}[self.auth]
        missing = [name.upper() for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"AUTH={self.auth} needs {' and '.join(missing)}")
        if self.auth == "api_key" and (self.api_keys_file is None) == (self.api_keys is None):
            raise ValueError("AUTH=api_key needs either API_KEYS_FILE or API_KEYS")
        others = {"none": (*KEY_SETTINGS, *JWT_SETTINGS), "api_key": JWT_SETTINGS}
        for name in others.get(self.auth, KEY_SETTINGS):
            if getattr(self, name) is not None:
                raise ValueError(f"{name.upper()} has no effect with AUTH={self.auth}")
        return self

    @property
    def lora(self) -> LoraSettings | None:
        """LoRA adapters to load at start, and bounds; None without LORA_MODULES and LORA_DIR.

        Raises:
            ValueError: LORA_MODULES is malformed.
        """
        if not self.lora_modules and self.lora_dir is None:
            return None
        modules = parse_modules(self.lora_modules)
        return LoraSettings(modules, self.lora_dir, self.max_loras, self.max_lora_rank)

    @property
    def request_limit(self) -> int | None:
        """RATE_LIMIT_REQUESTS; None, no limit, is the default of development on loopback."""
        is_local = self.environment == "development" and _is_loopback(self.host)
        if is_local and "rate_limit_requests" not in self.model_fields_set:
            return None
        return self.rate_limit_requests

    @property
    def cors_origin_list(self) -> list[str]:
        """The items of CORS_ORIGINS."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @property
    def sampling_settings(self) -> dict[str, float]:
        """TEMPERATURE and TOP_P, by their names, as far as they are set."""
        names = {"temperature", "top_p"} & self.model_fields_set
        return {name: getattr(self, name) for name in sorted(names)}

    @property
    def fallback_model_name(self) -> str | None:
        """The bundled model, served where MODEL_NAME is not set and its default cannot be had."""
        return None if "model_name" in self.model_fields_set else "storyteller"

    def engine_config(self) -> EngineConfig:
        """Returns the settings of the engine, each by its name."""
        names = [field.name for field in fields(EngineConfig)]
        return EngineConfig(
            **{name: getattr(self, SETTING_NAMES.get(name, name)) for name in names}
        )


def find_typos(file: Path = ENV_FILE) -> list[str]:
    """Returns a message for each name in an `.env` file that is almost a setting's."""
    known = {name.upper() for name in Settings.model_fields}
    names = dotenv_values(file) if file.is_file() else {}
    messages = []
    for name in names:
        likely = difflib.get_close_matches(name.upper(), known, 1, TYPO_SIMILARITY)
        if likely and name.upper() not in known:
            messages.append(f"{file}: {name} is no setting; did you mean {likely[0]}?")
    return messages


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings() -> Settings:
    """Reads the settings from the environment and `.env`.

    Raises:
        SettingsError: lists each invalid variable with its value and the allowed ones.
    """
    try:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The file .env cannot be read as text: {error}.") from None
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors(include_url=False)]
        raise SettingsError("\n  ".join(["Some settings cannot be used:", *problems])) from None


def _describe(problem: ErrorDetails) -> str:
    if not problem["loc"]:  # a validator of several settings
        return problem["msg"].removeprefix("Value error, ")
    name = str(problem["loc"][0])
    value = PASSWORD.sub("//***@", str(problem["input"]))
    if name in SECRETS:
        value = "***"
    return f"{name.upper()}={value}: {problem['msg']}"
