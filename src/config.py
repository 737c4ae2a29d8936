"""Every setting, once: its type, its bounds, its default and what it does.

Values come from the environment, and from a file `.env` in the working directory where the
environment has none.
`.env.example` and the table in docs/configuration.md are held against this file by a test.
"""

import difflib
import re
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.engine.config import (
    SETTING_NAMES,
    Device,
    DType,
    EngineConfig,
    EngineName,
    Kernels,
    Quantization,
    ToolCallFormatName,
)
from src.engine.sampling_params import MAX_TEMPERATURE
from src.errors import SettingsError

ENV_FILE = Path(".env")
TYPO_SIMILARITY = 0.85
"""Least ratio (difflib) of a name to a setting's; settings of other programs may be there too."""

KEY_SETTINGS = ("api_keys_file", "api_keys")
JWT_SETTINGS = ("jwt_key_file", "jwt_issuer", "jwt_audience")
PASSWORD = re.compile("//[^/]*@")
ORIGIN = re.compile(r"(http(?!.*:80$)|https(?!.*:443$))://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?")
Auth = Literal["none", "api_key", "jwt"]
JWTAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
Environment = Literal["development", "production"]
StorageFailure = Literal["open", "closed"]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]


class Settings(BaseSettings):
    """The service's settings. Nothing changes them after start."""

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
        description="The model to serve: `storyteller` (bundled, needs no download), a folder, or a"
        " hub id with an optional `@revision`. Where it is not set and the default cannot be had,"
        " `storyteller` is served.",
    )
    model_cache_dir: Path = Field(
        default=Path("./models"), description="Where models from the hub are kept."
    )
    max_model_len: int | None = Field(
        default=None,
        ge=2,
        description="Context in tokens, prompt and new tokens together. Empty: the model's own.",
    )
    device: Device = Field(
        default="auto", description="Where the model runs; `auto` is CUDA where there is one."
    )
    dtype: DType = Field(
        default="auto",
        description="Number format of the weights; `auto` is float32 on the CPU, and on CUDA"
        " bfloat16 where both checkpoint and GPU have it, else float16.",
    )
    quantization: Quantization = Field(
        default="none",
        description="Rounds the weights of linear layers on a CPU: `fp16` to half the memory,"
        " `int8` to a quarter, which is faster too. `none` is exact.",
    )
    kernels: Kernels = Field(
        default="auto",
        description="What computes float32 models on a CPU: `native` is our own C++, which `make"
        " install` builds where there is a compiler, `pytorch` is PyTorch's, `auto` ours if it is"
        " there.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Whether Python code that comes with a model may run on this machine.",
    )
    chat_template: str | None = Field(
        default=None,
        description="How conversations are written for the model: a Jinja template, or a file that"
        " holds one. Empty: the model's own.",
    )

    tool_call_format: ToolCallFormatName = Field(
        default="auto",
        description="How the model writes calls of tools: `hermes` between tags, as Qwen too, or"
        " `llama3` as a bare JSON object. `auto`: as its chat template does.",
    )

    max_length: int = Field(
        default=100, ge=1, description="New tokens when a request does not say how many."
    )
    temperature: float = Field(
        default=0.7,
        ge=0,
        le=MAX_TEMPERATURE,
        description="Temperature when a request names none; 0 is greedy.",
    )
    top_p: float = Field(
        default=0.9, gt=0, le=1, description="Nucleus sampling when a request names none."
    )

    environment: Environment = Field(
        default="development",
        description="`production` logs JSON and wants AUTH to be set, `development` logs for"
        " reading.",
    )
    log_level: LogLevel = Field(default="INFO", description="The least severe messages to log.")
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on; 0.0.0.0 is all of them, as a container needs. `::` is"
        " all of IPv6, and with several workers of IPv4 too.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 is any.")
    listen_when_loaded: bool = Field(
        default=False,
        description="Listen only once the model is loaded: until then connections are refused, so a"
        " proxy tries another replica. `false` answers probes meanwhile, and requests with 503.",
    )
    reload: bool = Field(
        default=False, description="Restart when the code changes; for development, with WORKERS=1."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Server processes, each with a model of its own.",
    )
    forwarded_allow_ips: str = Field(
        default="",
        description="Addresses or networks of proxies whose X-Forwarded-For counts, separated by"
        " commas. Empty: none.",
    )

    cors_origins: str = Field(
        default="",
        description="Origins of web pages that may ask, such as `https://app.example.com`, with"
        " commas between them; `*` is any page, with AUTH=api_key or jwt. Empty: none.",
    )

    auth: Auth = Field(
        default="none",
        description="Who is served: `none` is anybody, `api_key` who has a key, `jwt` who has a"
        " token of JWT_ISSUER.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="The keys, in a file that `python -m src.keys` writes; read again when it"
        " changes.",
    )
    api_keys: str | None = Field(
        default=None, repr=False, description="Or what such a file holds, itself."
    )
    jwt_key_file: Path | None = Field(
        default=None,
        description="Public keys that tokens are checked with, as PEM or JWKS; read again when the"
        " file changes.",
    )
    jwt_algorithm: JWTAlgorithm = Field(
        default="RS256", description="How tokens are signed; others are refused."
    )
    jwt_issuer: str | None = Field(
        default=None, description="The claim `iss` that tokens must have."
    )
    jwt_audience: str | None = Field(
        default=None, description="The claim `aud` that tokens must have."
    )

    engine: EngineName = Field(
        default="continuous",
        description="`continuous` serves many requests at once, step by step; `reference` runs"
        " HuggingFace's own `generate`, one request at a time.",
    )
    max_batch_size: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Sequences that run together. The reference engine runs one at a time, whatever"
        " this is.",
    )
    max_num_batched_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens that one step computes at most; a longer prompt takes several steps."
        " Empty: 128 on the CPU, 2048 on CUDA. No effect with ENGINE=reference.",
    )
    num_speculative_tokens: int = Field(
        default=15,
        ge=0,
        le=64,
        description="Tokens guessed ahead at most, from what stands in a sequence already, while"
        " few sequences run; the text is the same. 0 guesses nothing. No effect with"
        " ENGINE=reference.",
    )
    kv_cache_gb: float | None = Field(
        default=None,
        gt=0,
        description="GiB for the keys and values of all sequences. Empty: 40 % of what is free"
        " once the model is loaded, on CUDA 80 %. No effect with ENGINE=reference.",
    )
    max_queue_size: int = Field(
        default=512,
        ge=0,
        le=10**6,
        description="Sequences that may wait while others run; more requests get 503.",
    )
    queue_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=86400,
        description="How long a request may wait until its first sequence has its turn; then it"
        " gets 503.",
    )
    timeout_seconds: float = Field(
        default=60,
        gt=0,
        le=86400,
        description="How long a request may wait and run, together. Then its answer ends where"
        " it is, as if it had all its tokens; one that has none yet is 504.",
    )
    receive_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=86400,
        description="How long a client may take to send a whole request; a slower one gets 408.",
    )
    send_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=86400,
        description="How long a client may take to read on before it is broken off.",
    )
    hang_timeout_seconds: float = Field(
        default=120,
        gt=0,
        le=86400,
        description="A step of the model that takes longer hangs: all requests fail, and the"
        " process ends with status 1.",
    )
    shutdown_grace_seconds: int = Field(
        default=30, ge=0, le=86400, description="How long running requests may take after SIGTERM."
    )
    max_header_bytes: int = Field(
        default=2**15,
        ge=1024,
        le=2**20,
        description="Largest head of a request, its line and headers; a larger one gets 431.",
    )
    max_body_bytes: int = Field(
        default=2**21, ge=1024, le=2**30, description="Largest request body; a larger one gets 413."
    )
    max_json_depth: int = Field(
        default=500,
        ge=16,
        le=800,
        description="Levels of objects and arrays in a request's body; one of more gets 400.",
    )
    max_prompt_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**30,
        description="Largest prompt, or all messages of a chat, in bytes of text; a larger one gets"
        " 400. Empty: what may fit the model's context.",
    )
    max_stop_texts: int = Field(
        default=16, ge=0, le=256, description="Stop texts of a request; one of more gets 400."
    )
    max_stop_length: int = Field(
        default=128,
        ge=1,
        le=1024,
        description="Characters of a stop text; a request with a longer one gets 400.",
    )
    max_request_sequences: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Sequences of a request, `n` for each of its prompts; one of more gets 400."
        " Empty: as many as may run and wait.",
    )
    max_request_tokens: int | None = Field(
        default=None,
        ge=1,
        le=10**12,
        description="Tokens that a request may take, its prompts and `n` times `max_tokens`; one of"
        " more gets 400. Empty: any number.",
    )
    max_request_logprobs: int = Field(
        default=2**20,
        ge=1,
        le=10**9,
        description="Log-probabilities of a request, its sequences times their tokens times the"
        " alternatives and the token itself, of prompts likewise; one of more gets 400.",
    )
    max_grammar_bytes: int = Field(
        default=2**18,
        ge=1,
        le=2**24,
        description="Largest schema, pattern or other grammar of structured output; a larger one"
        " gets 400.",
    )
    grammar_timeout_seconds: float = Field(
        default=5,
        gt=0,
        le=3600,
        description="How long a grammar may take to compile, including the wait for others; one"
        " that takes longer gets 400, or 503 if it had to wait. Later each of its answers may take"
        " as long.",
    )
    grammar_cache_size: int = Field(
        default=64,
        ge=1,
        le=10**4,
        description="Compiled grammars that are kept for later requests, each in a process of some"
        " 4 MB.",
    )
    grammar_memory_gb: float = Field(
        default=1,
        gt=0,
        le=10**4,
        description="Memory that the processes of all grammars may take together; one may take a"
        " quarter of it.",
    )
    rate_limit_requests: int = Field(
        default=10,
        ge=1,
        le=10**9,
        description="Generation requests per client (a key; with AUTH=none an address) and"
        " RATE_LIMIT_PERIOD. Where it is not set, there is no such limit with"
        " ENVIRONMENT=development and a HOST that is loopback.",
    )
    rate_limit_period: int = Field(
        default=60, ge=1, le=86400, description="Seconds over which they are counted."
    )
    rate_limit_tokens: int | None = Field(
        default=None,
        ge=1,
        le=10**12,
        description="Tokens of prompts and answers per client and RATE_LIMIT_PERIOD; what may be"
        " needed is reserved, the rest given back. Empty: any number.",
    )
    rate_limit_concurrent: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Requests of a client that are answered at the same time. Empty: any number.",
    )
    rate_limit_address_requests: int = Field(
        default=1000,
        ge=1,
        le=10**9,
        description="Requests per address (of IPv6: per /64) and RATE_LIMIT_PERIOD, counted before"
        " anybody looks at their keys. No effect with AUTH=none.",
    )
    usage_log: Path | None = Field(
        default=None,
        description="A file to which a line of JSON is added for each request that used tokens.",
    )
    rate_limit_storage: str = Field(
        default="memory",
        pattern=r"^(memory|rediss?://.+)$",
        description="Where they are counted: `memory` is each process's own, so replicas and"
        " workers multiply the limit; `redis://host:6379/0` is shared by all that name it"
        " (`rediss://` with TLS).",
    )
    rate_limit_storage_failure: StorageFailure = Field(
        default="open",
        description="While Redis does not answer: `open` serves requests uncounted, `closed`"
        " answers those that need the model with 503.",
    )

    @model_validator(mode="after")
    def _reload_has_one_worker(self) -> Self:
        if self.reload and self.workers > 1:
            raise ValueError(
                f"RELOAD=true works with WORKERS=1 alone, not with WORKERS={self.workers}"
            )
        return self

    @model_validator(mode="after")
    def _a_step_has_room_for_all(self) -> Self:
        budget = self.max_num_batched_tokens
        if budget is not None and budget < self.max_batch_size:
            raise ValueError(
                f"MAX_NUM_BATCHED_TOKENS={budget} is less than MAX_BATCH_SIZE="
                f"{self.max_batch_size}: each sequence needs a token in every step"
            )
        return self

    @model_validator(mode="after")
    def _origins_are_what_browsers_send(self) -> Self:
        origins = self.cors_origin_list
        if origins == ["*"] and self.auth == "none":
            raise ValueError(
                "CORS_ORIGINS=* with AUTH=none would let every web page that somebody here opens"
                " use this service: name the origins, or set AUTH"
            )
        for origin in origins if origins != ["*"] else []:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"CORS_ORIGINS: {origin} is no origin as browsers send it, such as"
                    " https://app.example.com or http://localhost:3000 (small letters, no path, no"
                    " slash at the end, no port that is the scheme's own)"
                )
        return self

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _proxies_are_addresses(cls, value: str) -> str:
        """uvicorn passes over what is none, and with `*` takes a client's own word."""
        for proxy in value.split(",") if value else []:
            try:
                network = ip_network(proxy.strip())
            except ValueError as error:
                raise ValueError(f"each must be an address, or a network: {error}") from None
            if not network.prefixlen:
                raise ValueError(f"{proxy.strip()} is anybody, and anybody's word would count")
        return value

    @model_validator(mode="after")
    def _auth_is_whole(self) -> Self:
        if self.environment == "production" and "auth" not in self.model_fields_set:
            raise ValueError(
                "ENVIRONMENT=production serves nobody by mistake: set AUTH=api_key or AUTH=jwt, or"
                " say with AUTH=none that anybody may use this service"
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
    def request_limit(self) -> int | None:
        """RATE_LIMIT_REQUESTS; None is no limit, for development on this machine."""
        is_local = self.environment == "development" and _is_loopback(self.host)
        if is_local and "rate_limit_requests" not in self.model_fields_set:
            return None
        return self.rate_limit_requests

    @property
    def cors_origin_list(self) -> list[str]:
        """CORS_ORIGINS, one by one."""
        return [origin.strip() for origin in self.cors_origins.split(",") if origin.strip()]

    @property
    def fallback_model_name(self) -> str | None:
        """The bundled model, served where MODEL_NAME is not set and its default cannot be had."""
        return None if "model_name" in self.model_fields_set else "storyteller"

    def engine_config(self) -> EngineConfig:
        """Returns the engine's settings, each taken by its name."""
        names = [field.name for field in fields(EngineConfig)]
        return EngineConfig(
            **{name: getattr(self, SETTING_NAMES.get(name, name)) for name in names}
        )


def find_typos(file: Path = ENV_FILE) -> list[str]:
    """A message for each name in an `.env` file that is no setting but nearly one."""
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
        SettingsError: names each variable that is wrong, its value and what is allowed.
    """
    try:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The file .env cannot be read as text: {error}.") from None
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors(include_url=False)]
        raise SettingsError("\n  ".join(["Some settings cannot be used:", *problems])) from None


def _describe(problem: ErrorDetails) -> str:
    if not problem["loc"]:  # about several settings together
        return problem["msg"].removeprefix("Value error, ")
    value = PASSWORD.sub("//***@", str(problem["input"]))
    return f"{str(problem['loc'][0]).upper()}={value}: {problem['msg']}"
