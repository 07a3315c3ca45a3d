"""Model files from a hub: a stand-in hub on this machine answers as the real one refuses."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from netdiff_ray.config.diffusion import is_commit
from netdiff_ray.diffusion.fetch import digest_of, directory_of
from netdiff_ray.errors import ModelError

COMMIT = "ea42f8cef0f178587cf766dc8129abd379c90671"
ANSWERS = {"gated": (403, "GatedRepo"), "moved": (404, "RevisionNotFound")}


class Refusing(BaseHTTPRequestHandler):
    """Refuses each repository for another reason; others do not exist."""

    def do_GET(self):
        kinds = [answer for name, answer in ANSWERS.items() if f"/{name}/" in self.path]
        status, code = kinds[0] if kinds else (401, "RepoNotFound")
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_arguments):
        """Keep the test's output clean."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/gated", "is gated: accept its licence at .*, then log in"),
        ("a/moved", f"has no commit {COMMIT}"),
        ("a/nowhere", "nor a repository on the hub that you may read"),
    ],
)
def test_each_refusal_says_what_to_do(hub, name, message):
    with pytest.raises(ModelError, match=message):
        directory_of(name, COMMIT, ["transformer"])


def test_a_hub_that_is_not_there(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="not in the hub cache and the hub cannot be reached"):
        directory_of("a/model", COMMIT, ["transformer"])


def test_a_directory_is_taken_as_it_is(tmp_path):
    assert directory_of(str(tmp_path), None, []) == tmp_path


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:12], COMMIT.upper()])
def test_what_can_change_is_no_commit(revision):
    assert not is_commit(revision)
    assert is_commit(COMMIT)


def test_a_digest_is_of_configs_and_weights_alone(tmp_path):
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    before = digest_of(tmp_path, ["vae"])
    (folder / "README.md").write_text("words")
    (folder / "model.fp16.safetensors").write_bytes(b"the same, smaller")
    assert digest_of(tmp_path, ["vae"]) == before
    (folder / "model.safetensors").write_bytes(b"others")
    assert digest_of(tmp_path, ["vae"]) != before
