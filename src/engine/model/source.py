"""Finds the folder of MODEL_NAME: the bundled model, a folder, or a download from the hub.

Downloads go through `huggingface_hub`. If the hub does not answer, a complete copy in the cache is
used. Pickled weights are never downloaded.
"""

import logging
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from src.engine.config import EngineConfig
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

BUNDLED_MODEL = "storyteller"
BUNDLED_FOLDER = Path(__file__).parent.parent.parent / "bundled" / BUNDLED_MODEL
REMEDY = f"MODEL_NAME={BUNDLED_MODEL} runs the bundled model, which needs no download."

HUB_ID = re.compile(
    r"(?P<repo_id>(?:[\w.-]{1,96}/)?[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,200}))?", re.ASCII
)
HUB_TIMEOUT = 10  # seconds to connect, and seconds to answer
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def find_model_folder(config: EngineConfig) -> Path:
    """Returns the folder with the model's files; downloads them if needed.

    Raises:
        ModelLoadError: there is no such folder or hub id, or the hub cannot be reached and the
            model is not in the cache.
    """
    name = config.model_name
    if name == BUNDLED_MODEL:
        return BUNDLED_FOLDER
    folder = _existing_folder(name)
    if folder is not None:
        return folder
    match = HUB_ID.fullmatch(name)
    if match is None or name.startswith(("/", "./", "../", "~")):
        raise _no_such_folder(name)
    return _download(match["repo_id"], match["revision"] or constants.DEFAULT_REVISION, config)


def with_available_model(config: EngineConfig) -> EngineConfig:
    """Returns the config, with its fallback as the model if its own model is not available."""
    fallback = config.fallback_model_name
    if fallback is None:
        return config
    try:
        find_model_folder(config)
    except ModelLoadError:
        name = config.model_name
        logger.warning(
            "MODEL_NAME is not set, and its default %s is not available: serving %s", name, fallback
        )
        return replace(config, model_name=fallback)
    return config


def _existing_folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        is_file = folder.exists()
    except (OSError, RuntimeError) as error:  # no permission, too long, no such user
        raise ModelLoadError(
            f"MODEL_NAME={name} cannot be opened ({one_line(error)}). {REMEDY}"
        ) from error
    if is_file:
        raise ModelLoadError(
            f"MODEL_NAME={name} is a file. Give the folder that holds it, together with the model's"
            f" config.json and tokenizer.json. {REMEDY}"
        )
    return None


def _no_such_folder(name: str) -> ModelLoadError:
    return ModelLoadError(
        f"MODEL_NAME={name}: there is no folder {Path(name).expanduser().absolute()}, and no model"
        " on the hub can have that name. Give the path of a folder with a model, or a hub id such"
        f" as gpt2 or org/model@revision. {REMEDY}"
    )


def _download(repo_id: str, revision: str, config: EngineConfig) -> Path:
    name = config.model_name
    hub = f"the model hub ({constants.ENDPOINT})"
    try:
        return _fetch(repo_id, revision, config)
    except HFValidationError:
        raise _no_such_folder(name) from None
    except GatedRepoError:
        reason = (
            f"{hub} gives {repo_id} only to those who accepted its terms. Accept them on the"
            " model's page there and set HF_TOKEN to an access token of your account."
        )
    except RevisionNotFoundError:
        reason = (
            f"{hub} has {repo_id}, but no revision {revision} of it. Check what follows"
            " the @: a branch, a tag or a whole commit hash."
        )
    except RepositoryNotFoundError:
        reason = (
            f"there is no such folder here, and {hub} has no model {repo_id}, or does not show it"
            " to you. Check the spelling; a private model needs HF_TOKEN."
        )
    except OfflineModeIsEnabled:
        reason = f"{_not_in_cache(config)}, and HF_HUB_OFFLINE forbids a download. Unset that."
    except (httpx2.HTTPError, LocalEntryNotFoundError, ValueError, RuntimeError) as error:
        reason = (
            f"{_not_in_cache(config)}, and the download from {hub} failed ({one_line(error)})."
            " Check the network and its proxy, and HF_ENDPOINT and HF_TOKEN if you set them."
        )
    except OSError as error:
        reason = (
            f"the download from {hub} ended with {one_line(error)}. Check that MODEL_CACHE_DIR"
            f" ({config.model_cache_dir}) can be written and that its disk has room."
        )
    raise ModelLoadError(f"MODEL_NAME={name}: {reason} {REMEDY}")


def _fetch(repo_id: str, revision: str, config: EngineConfig) -> Path:
    download = partial(
        snapshot_download,
        repo_id,
        revision=revision,
        cache_dir=config.model_cache_dir,
        allow_patterns=[*MODEL_FILES, "*.py"] if config.trust_remote_code else MODEL_FILES,
        ignore_patterns=["*/*", "consolidated*"],  # the same weights in other forms
    )
    try:
        # snapshot_download has no timeout for a hub that accepts the connection and never answers.
        HfApi().model_info(repo_id, revision=revision, timeout=HUB_TIMEOUT)
    except RevisionNotFoundError:
        raise
    except (httpx2.HTTPError, OfflineModeIsEnabled, ValueError) as outage:
        try:
            return Path(download(local_files_only=True))
        except LocalEntryNotFoundError:
            raise outage from None
    return Path(download())


def _not_in_cache(config: EngineConfig) -> str:
    return (
        "there is no such folder here, MODEL_CACHE_DIR"
        f" ({config.model_cache_dir}) holds no complete copy of that model"
    )


def one_line(error: Exception) -> str:
    """Returns an error's type and message on one line, for the middle of a sentence."""
    text = " ".join(str(error).split()).partition(" For more information")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
