"""LoRA adapters over HTTP: loaded, named in requests of all APIs, unloaded."""

import pytest

from src.main import create_app
from tests.api.test_served_model import BODIES, WITHOUT_MODEL
from tests.conftest import create_settings
from tests.support.adapters import write_adapter
from tests.support.servers import serve_app
from tests.support.wire import PLAIN_TEMPLATE, post

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning:"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),
]


def test_an_adapter_is_loaded_named_and_unloaded(tiny_model, tmp_path):
    folder = tiny_model()
    write_adapter(folder, tmp_path / "loras" / "x")
    (tmp_path / "loras" / "out").symlink_to(folder)
    settings = create_settings(
        model_name=str(folder), lora_dir=tmp_path / "loras", chat_template=PLAIN_TEMPLATE
    )
    with serve_app(create_app(settings)) as server:
        for path in ("out", "..", ".", "missing", "x\0"):
            response = post(server, "/v1/load_lora_adapter", lora_name="a", lora_path=path)
            assert response.status_code == 404, path
        response = post(server, "/v1/load_lora_adapter", lora_name="a", lora_path="x")
        assert response.status_code == 200, response.text
        assert post(server, "/v1/load_lora_adapter", lora_name="a", lora_path="x").is_error
        listed = server.get("/v1/models").json()["data"]
        assert [(one["id"], one["parent"]) for one in listed][1] == ("a", listed[0]["id"])
        for path, body in BODIES.items():
            response = post(server, path, model="a", **body)
            assert response.status_code == 200, response.text
            assert response.json().get("model") == (None if path in WITHOUT_MODEL else "a")
        embedded = [
            post(server, "/v1/embeddings", model=name, input="the cat").json()["data"]
            for name in ("a", listed[0]["id"])
        ]
        assert embedded[0] != embedded[1]
        assert post(server, "/v1/unload_lora_adapter", lora_name="a").status_code == 200
        assert post(server, "/v1/unload_lora_adapter", lora_name="a").status_code == 404
        assert post(server, "/v1/completions", model="a", prompt="x").status_code == 404
