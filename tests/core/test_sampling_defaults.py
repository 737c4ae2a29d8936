"""Defaults of sampling parameters: settings, then the model's, then the API's."""

from src.core.sampling_defaults import API_DEFAULTS, Default, SamplingDefaults, Source

MODEL = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}


def test_a_setting_precedes_the_model_which_precedes_the_api():
    defaults = SamplingDefaults({"temperature": 0.0}, MODEL)
    found = defaults.find(temperature=0.7, top_p=0.9)
    assert found == {
        "temperature": Default(0.0, Source.SETTING),
        "top_p": Default(0.95, Source.MODEL),
        "top_k": Default(20, Source.MODEL),
        "min_p": Default(0, Source.API),
        "repetition_penalty": Default(1, Source.API),
    }
    assert defaults.values() == {name: default.value for name, default in found.items()}


def test_without_settings_and_a_models_defaults_those_of_the_api_are_left():
    assert SamplingDefaults().values() == API_DEFAULTS
    assert SamplingDefaults().values(top_p=0.9) == {**API_DEFAULTS, "top_p": 0.9}
