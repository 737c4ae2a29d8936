"""`SamplingDefaults`: values of sampling parameters that a request leaves out.

In falling precedence: the settings TEMPERATURE and TOP_P if they are set, the model's own defaults,
those of the API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

API_DEFAULTS: Mapping[str, float] = {
    "temperature": 1,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
}
"""Defaults of OpenAI's and Anthropic's APIs: they sample from the model's own distribution."""


class Source(StrEnum):
    """Origin of a default."""

    SETTING = "setting"
    MODEL = "model"  # generation_config.json, or the metadata of a GGUF file
    API = "api"


@dataclass(frozen=True, slots=True)
class Default:
    """A default with its origin."""

    value: float
    source: Source


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Defaults of the served model.

    Args:
        settings: TEMPERATURE and TOP_P by the parameters' names, if they are set.
        model: values in the model's files; empty with GENERATION_CONFIG=none.
    """

    settings: Mapping[str, float] = field(default_factory=dict)
    model: Mapping[str, float] = field(default_factory=dict)

    def find(self, **api_defaults: float) -> dict[str, Default]:
        """Returns the default of each parameter.

        Args:
            api_defaults: those of an API that differ from API_DEFAULTS.
        """
        defaults = {**API_DEFAULTS, **api_defaults}
        return {name: self._find(name, api_default) for name, api_default in defaults.items()}

    def values(self, **api_defaults: float) -> dict[str, float]:
        """Returns the values alone; as `find`."""
        return {name: default.value for name, default in self.find(**api_defaults).items()}

    def _find(self, name: str, api_default: float) -> Default:
        if name in self.settings:
            return Default(self.settings[name], Source.SETTING)
        if name in self.model:
            return Default(self.model[name], Source.MODEL)
        return Default(api_default, Source.API)
