"""From MODEL_NAME to a local folder: the bundled model, a folder, or a download from the hub.

Downloads go through `huggingface_hub`, so a model that is in the cache is found there when the hub
cannot be reached. Pickled weights are never fetched.
"""

import re
from pathlib import Path

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from src.engine.config import EngineConfig
from src.errors import ModelLoadError

BUNDLED_MODEL = "storyteller"
BUNDLED_FOLDER = Path(__file__).parent.parent / "bundled" / BUNDLED_MODEL
REMEDY = f"MODEL_NAME={BUNDLED_MODEL} runs the bundled model, which needs no download."

HUB_ID = re.compile(
    r"(?P<repo_id>(?:[\w.-]{1,96}/)?[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,200}))?", re.ASCII
)
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def find_model_folder(config: EngineConfig) -> Path:
    """Returns the folder that holds the model's files, downloading them where needed.

    Raises:
        ModelLoadError: there is no such folder or hub id, or the hub cannot be reached and the
            model is not in the cache.
    """
    name = config.model_name
    if name == BUNDLED_MODEL:
        return BUNDLED_FOLDER
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    match = HUB_ID.fullmatch(name)
    if match is None or name.startswith(("/", "./", "../", "~")):
        raise ModelLoadError(
            f"There is no folder {folder.absolute()} (MODEL_NAME={name}). Give the path of a folder"
            f" with a model, or a hub id such as gpt2 or org/model@revision. {REMEDY}"
        )
    return _download(match["repo_id"], match["revision"], config)


def _download(repo_id: str, revision: str | None, config: EngineConfig) -> Path:
    files = [*MODEL_FILES, "*.py"] if config.trust_remote_code else MODEL_FILES
    tried = f"{repo_id} (revision {revision or 'main'}) on the model hub"
    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=config.model_cache_dir,
                allow_patterns=files,
                ignore_patterns="*/*",
            )
        )
    except GatedRepoError:
        reason = f"Access to {tried} is restricted. Accept its terms there and set HF_TOKEN."
    except RevisionNotFoundError:
        reason = f"There is no {tried}. Check the part of MODEL_NAME after the @."
    except RepositoryNotFoundError:
        reason = f"There is no {tried}. Check MODEL_NAME; a private model needs HF_TOKEN."
    except LocalEntryNotFoundError:
        reason = (
            f"Tried {tried}: it cannot be reached, and no complete copy of the model is in"
            f" MODEL_CACHE_DIR ({config.model_cache_dir}). Check the network and HF_ENDPOINT."
        )
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        reason = f"Tried {tried}: the download failed ({type(error).__name__}). Try again later."
    raise ModelLoadError(f"{reason} {REMEDY}")
