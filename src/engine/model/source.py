"""Finds the files of MODEL_NAME: the bundled model, a folder, a GGUF file, or a download.

Downloads go through `huggingface_hub`. If the hub does not answer, a complete copy in the cache is
used. Pickled weights are never downloaded.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
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
from src.engine.model.gguf.names import find_models, find_part_names, is_gguf
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

BUNDLED_MODEL = "storyteller"
BUNDLED_FOLDER = Path(__file__).parent.parent.parent / "bundled" / BUNDLED_MODEL
REMEDY = f"MODEL_NAME={BUNDLED_MODEL} runs the bundled model, which needs no download."

HUB_ID = re.compile(
    r"(?P<repo_id>(?:[\w.-]{1,96}/)?[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,200}))?"
    r"(?::(?P<file>[\w.+/ -]{1,200}\.gguf))?",
    re.ASCII | re.IGNORECASE,
)
HUB_TIMEOUT = 10  # seconds to connect, and seconds to answer
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub.

    Args:
        repo_id: of its repository.
        revision: a branch, a tag or a commit.
        file: a GGUF file in it; None if none is named.
    """

    repo_id: str
    revision: str
    file: str | None


def find_model_path(config: EngineConfig) -> Path:
    """Returns the folder with the model's files, or its GGUF file; downloads it if needed.

    Raises:
        ModelLoadError: there is no such folder, file or hub id, or the hub cannot be reached and
            the model is not in the cache.
    """
    name = config.model_name
    if name == BUNDLED_MODEL:
        return BUNDLED_FOLDER
    path = _existing_path(name)
    if path is not None:
        return path
    match = HUB_ID.fullmatch(name)
    if match is None or name.startswith(("/", "./", "../", "~")):
        raise _no_such_folder(name)
    revision = match["revision"] or constants.DEFAULT_REVISION
    return _download(HubModel(match["repo_id"], revision, match["file"]), config)


def with_available_model(config: EngineConfig) -> EngineConfig:
    """Returns the config, with its fallback as the model if its own model is not available."""
    fallback = config.fallback_model_name
    if fallback is None:
        return config
    try:
        find_model_path(config)
    except ModelLoadError:
        name = config.model_name
        logger.warning(
            "MODEL_NAME is not set, and its default %s is not available: serving %s", name, fallback
        )
        return replace(config, model_name=fallback)
    return config


def _existing_path(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return _find_in_folder(path, name)
        is_file = path.exists()
    except (OSError, RuntimeError) as error:  # no permission, too long, no such user
        raise ModelLoadError(
            f"MODEL_NAME={name} cannot be opened ({one_line(error)}). {REMEDY}"
        ) from error
    if is_file and not is_gguf(name):
        raise ModelLoadError(
            f"MODEL_NAME={name} is a file, and no GGUF file. Give the folder that holds it,"
            f" together with the model's config.json and tokenizer.json. {REMEDY}"
        )
    return path if is_file else None


def _find_in_folder(folder: Path, name: str) -> Path:
    """Returns the folder, or the GGUF file in it if that is all of the model."""
    if (folder / "config.json").exists():
        return folder
    file = _only_gguf((path.name for path in folder.iterdir()), name, f"{folder}/")
    return folder / file if file else folder


def _only_gguf(names: Iterable[str], name: str, prefix: str) -> str | None:
    """Returns the only GGUF model among files; None if there is none."""
    models = find_models(names)
    if len(models) > 1:
        raise ModelLoadError(
            f"MODEL_NAME={name} holds {len(models)} GGUF files: {', '.join(models)}. Name one of"
            f" them, as MODEL_NAME={prefix}{models[0]}. {REMEDY}"
        )
    return models[0] if models else None


def _no_such_folder(name: str) -> ModelLoadError:
    return ModelLoadError(
        f"MODEL_NAME={name}: there is no folder {Path(name).expanduser().absolute()}, and no model"
        " on the hub can have that name. Give the path of a folder with a model or of a GGUF file,"
        f" or a hub id such as gpt2, org/model@revision or org/model:file.gguf. {REMEDY}"
    )


def _download(model: HubModel, config: EngineConfig) -> Path:
    name, repo_id = config.model_name, model.repo_id
    hub = f"the model hub ({constants.ENDPOINT})"
    try:
        return _fetch(model, config)
    except HFValidationError:
        raise _no_such_folder(name) from None
    except GatedRepoError:
        reason = (
            f"{hub} gives {repo_id} only to those who accepted its terms. Accept them on the"
            " model's page there and set HF_TOKEN to an access token of your account."
        )
    except RevisionNotFoundError:
        reason = (
            f"{hub} has {repo_id}, but no revision {model.revision} of it. Check what follows"
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


def _fetch(model: HubModel, config: EngineConfig) -> Path:
    try:
        # snapshot_download has no timeout for a hub that accepts the connection and never answers.
        info = HfApi().model_info(model.repo_id, revision=model.revision, timeout=HUB_TIMEOUT)
    except RevisionNotFoundError:
        raise
    except (httpx2.HTTPError, OfflineModeIsEnabled, ValueError) as outage:
        try:
            folder = _snapshot(model, config, local_files_only=True)
        except LocalEntryNotFoundError:
            raise outage from None
        found = _find_downloaded(folder, model, config)
        if found is None:
            raise outage from None
        return found
    names = [one.rfilename for one in info.siblings or ()]
    if model.file is None and names and "config.json" not in names:
        prefix = f"{config.model_name}:"
        model = replace(model, file=_only_gguf(names, config.model_name, prefix))
    if model.file is not None and names and model.file not in names:
        raise ModelLoadError(
            f"MODEL_NAME={config.model_name}: {model.repo_id} has no file {model.file} on the model"
            f" hub ({constants.ENDPOINT}). Its GGUF files are: {', '.join(find_models(names))}."
            f" {REMEDY}"
        )
    folder = _snapshot(model, config)
    return _find_downloaded(folder, model, config) or folder


def _snapshot(model: HubModel, config: EngineConfig, *, local_files_only: bool = False) -> Path:
    """Downloads the files of a model and returns their folder."""
    patterns = [*MODEL_FILES, "*.py"] if config.trust_remote_code else MODEL_FILES
    others = ["*/*", "consolidated*"]  # the same weights in other forms
    if model.file is not None:
        patterns, others = find_part_names(model.file), []
    return Path(
        snapshot_download(
            model.repo_id,
            revision=model.revision,
            cache_dir=config.model_cache_dir,
            allow_patterns=patterns,
            ignore_patterns=others,
            local_files_only=local_files_only,
        )
    )


def _find_downloaded(folder: Path, model: HubModel, config: EngineConfig) -> Path | None:
    """Returns the folder or the GGUF file that was asked for; None if it is not there."""
    if model.file is None:
        return _find_in_folder(folder, config.model_name)
    file = folder / model.file
    return file if file.exists() else None


def _not_in_cache(config: EngineConfig) -> str:
    return (
        "there is no such folder here, MODEL_CACHE_DIR"
        f" ({config.model_cache_dir}) holds no complete copy of that model"
    )


def one_line(error: Exception) -> str:
    """Returns an error's type and message on one line, for the middle of a sentence."""
    text = " ".join(str(error).split()).partition(" For more information")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
