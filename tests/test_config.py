"""Settings: sources, bounds, error messages and documentation."""

import re
from pathlib import Path

import pytest

from docs.generate import settings_table
from src.config import Settings, load_settings
from src.errors import SettingsError

ROOT = Path(__file__).parent.parent
NAMES = {name.upper() for name in Settings.model_fields}


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_the_required_ones():
    settings = load_settings()
    assert settings.model_name == "gpt2"
    assert settings.max_length == 100
    assert settings.temperature == 0.7
    assert settings.top_p == 0.9
    assert settings.model_cache_dir == Path("models")
    assert settings.environment == "development"
    assert settings.port == 8000
    assert settings.workers == 1
    assert settings.max_batch_size == 32
    assert settings.timeout_seconds == 60
    assert settings.rate_limit_requests == 10
    assert settings.rate_limit_period == 60


def test_the_environment_wins_over_the_env_file(monkeypatch):
    Path(".env").write_text("MODEL_NAME=from-file\nTOP_P=0.5\nPOSTGRES_PASSWORD=not ours\n")
    monkeypatch.setenv("MODEL_NAME", "from-environment")
    settings = load_settings()
    assert (settings.model_name, settings.top_p) == ("from-environment", 0.5)


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("MAX_LENGTH", "")
    assert load_settings().max_length == 100


def test_the_log_level_may_be_lower_case(monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "warning")
    assert load_settings().log_level == "WARNING"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "abc", "valid integer"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("TEMPERATURE", "2.5", "less than or equal to 2"),
        ("TOP_P", "0", "greater than 0"),
        ("TOP_P", "nan", "finite"),
        ("MAX_LENGTH", "0", "greater than or equal to 1"),
        ("ENVIRONMENT", "staging", "'development' or 'production'"),
        ("LOG_LEVEL", "LOUD", "'DEBUG'"),
        ("DEVICE", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("DTYPE", "int8", "'float32'"),
        ("TIMEOUT_SECONDS", "0", "greater than 0"),
        ("RATE_LIMIT_REQUESTS", "-5", "greater than or equal to 1"),
        ("TRUST_REMOTE_CODE", "maybe", "boolean"),
        ("FORWARDED_ALLOW_IPS", "nginx", "'nginx' does not appear to be an IPv4 or IPv6 network"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1,", "'' does not appear"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("FORWARDED_ALLOW_IPS", "*", "'*' does not appear to be an IPv4 or IPv6 network"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1, 0.0.0.0/0", "every client would be trusted"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(monkeypatch, name, value, allowed):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert f"{name}={value}:" in message
    assert allowed in message


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (" ", "a name is empty"),
        (",", "a name is empty"),
        ("a,,b", "a name is empty"),
        ("a,b,", "a name is empty"),
        ("a, b ,a", "the name a is there 2 times"),
        ("a\tb", r"the name 'a\tb' has characters that cannot be printed"),
        ("a\u202eb", r"the name 'a\u202eb' has characters that cannot be printed"),
        ("a," + 257 * "b", "a name has 257 characters; 256 are allowed"),
    ],
)
def test_bad_names_of_the_model_are_refused(monkeypatch, value, problem):
    monkeypatch.setenv("SERVED_MODEL_NAME", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"SERVED_MODEL_NAME={value}: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize("value", ["yes", "yes,yes", "yes, ", "yes,no,maybe", "yes, yes"])
def test_labels_of_a_reranker_are_two_that_differ(monkeypatch, value):
    monkeypatch.setenv("RERANK_LABELS", value)
    with pytest.raises(SettingsError, match=f"RERANK_LABELS={value}: "):
        load_settings()


def test_names_of_the_model_may_have_spaces_slashes_and_any_script(monkeypatch):
    value = "team/größer 2, 模型@v1," + 256 * "b"
    monkeypatch.setenv("SERVED_MODEL_NAME", value)
    assert load_settings().served_model_name == value


def test_proxies_are_addresses_and_networks(monkeypatch):
    proxies = "127.0.0.1, 10.0.0.0/8,::1,fd00::/8"
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    assert load_settings().forwarded_allow_ips == proxies


def test_all_invalid_values_are_listed_at_once(monkeypatch):
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("TOP_P", "2")
    with pytest.raises(SettingsError, match=r"(?s)PORT=x.*TOP_P=2|TOP_P=2.*PORT=x"):
        load_settings()


def test_a_step_too_small_for_all_sequences_is_refused(monkeypatch):
    monkeypatch.setenv("MAX_NUM_BATCHED_TOKENS", "4")
    with pytest.raises(SettingsError, match="MAX_NUM_BATCHED_TOKENS=4 is less than"):
        load_settings()


def test_an_env_file_that_is_not_text_is_refused():
    Path(".env").write_bytes(b"\xff\xfeP")
    with pytest.raises(SettingsError, match=r"The file \.env cannot be read as text"):
        load_settings()


def test_reload_with_several_workers_is_refused(monkeypatch):
    monkeypatch.setenv("RELOAD", "true")
    monkeypatch.setenv("WORKERS", "2")
    with pytest.raises(SettingsError, match="RELOAD=true works with WORKERS=1"):
        load_settings()


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


def test_the_example_file_holds_every_setting_with_its_default(monkeypatch):
    text = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^#? ?([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert set(shown) == NAMES
    Path(".env").write_text(text)
    from_example = load_settings()
    assert from_example.model_name == "storyteller"
    assert from_example == Settings(_env_file=None, model_name="storyteller")


def test_the_table_in_the_docs_is_current():
    assert settings_table() in (ROOT / "docs" / "configuration.md").read_text()


def settings_with(monkeypatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(name.upper(), value)
    return load_settings()


def test_production_requires_auth_to_be_chosen(monkeypatch):
    with pytest.raises(SettingsError, match="set AUTH=api_key or AUTH=jwt"):
        settings_with(monkeypatch, environment="production")
    assert settings_with(monkeypatch, auth="none").environment == "production"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"auth": "api_key"}, "AUTH=api_key needs either API_KEYS_FILE or API_KEYS"),
        ({"auth": "api_key", "api_keys_file": "a", "api_keys": "b"}, "needs either"),
        ({"auth": "jwt", "jwt_issuer": "a"}, "AUTH=jwt needs JWT_KEY_FILE and JWT_AUDIENCE"),
        ({"api_keys_file": "a"}, "API_KEYS_FILE has no effect with AUTH=none"),
        ({"jwt_issuer": "a"}, "JWT_ISSUER has no effect with AUTH=none"),
        (
            {"auth": "api_key", "api_keys": "a", "jwt_audience": "a"},
            "JWT_AUDIENCE has no effect with AUTH=api_key",
        ),
    ],
)
def test_contradictory_settings_of_auth_are_refused(monkeypatch, values, problem):
    with pytest.raises(SettingsError, match=problem):
        settings_with(monkeypatch, **values)
