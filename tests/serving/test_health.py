"""The API's health, by its own application without Ray: what is said to whom."""

import hashlib

import pytest
from starlette.testclient import TestClient

from netdiff_ray.config import ServeConfig
from netdiff_ray.serving.api import make_app
from netdiff_ray.serving.catalogue import Catalogue
from netdiff_ray.serving.faults import Fault

TOKEN = "a word to draw"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
SHORT = Fault("it waits for the cluster's resources", "the Denoiser needs 1 CPU; none is free")
STARTING = Fault("it is starting", "the Repairer is starting")


class Endpoint:
    """The part of a service that health asks for, with real adapters."""

    def __init__(self, sources, faults, tokens):
        self.config = ServeConfig(adapters=tuple(map(str, sources)), tokens=tokens)
        self._catalogue, self._faults = Catalogue(self.config.adapters), faults

    async def adapters(self):
        return self._catalogue.adapters()

    async def faults(self):
        return self._faults

    def observe(self, route, outcome, seconds):
        """Count nothing."""


@pytest.fixture
def ask(adapter_directory, tmp_path):
    """Ask for the health of an endpoint with an adapter, and one that is missing if so said."""

    def asked(faults=(), *, missing=False, adapter=True, tokens=(f"{HASH}:draw",), headers=None,
              client="192.0.2.1", host="http://flows.example"):  # fmt: skip
        sources = [adapter_directory] * adapter + [tmp_path / "missing"] * missing
        app = make_app(Endpoint(sources, list(faults), tokens))
        with TestClient(app, base_url=host, client=(client, 50_000)) as session:
            answer = session.get("/healthz", headers=headers)
        return answer.status_code, answer.json()["status"], answer.json()["reasons"]

    return asked


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, (200, "ok", [])),
        ({"missing": True}, (200, "degraded", ["an adapter cannot be used"])),
        ({"faults": [STARTING]}, (503, "starting", ["it is starting"])),
        (
            {"faults": [SHORT, STARTING, SHORT]},
            (503, "unavailable", [SHORT.summary, STARTING.summary]),
        ),
        (
            {"adapter": False, "missing": True},
            (503, "unavailable", ["there is no adapter to draw with", "an adapter cannot be used"]),
        ),
    ],
)
def test_without_a_token_only_kinds_of_reasons_are_told(ask, case, expected):
    assert ask(**case) == expected
    assert ask(**case, headers={"authorization": "Bearer wrong"}) == expected


def test_with_a_token_details_are_told(ask, tmp_path):
    headers = {"authorization": f"Bearer {TOKEN}"}
    status, state, reasons = ask([SHORT, STARTING], missing=True, headers=headers)
    assert (status, state) == (503, "unavailable")
    assert reasons[:2] == [SHORT.detail, STARTING.detail]
    assert reasons[2].startswith(f"{tmp_path}/missing: neither an adapter nor")


def test_without_tokens_details_are_told_to_this_machine_alone(ask):
    here = {"client": "127.0.0.1", "host": "http://localhost:8000"}
    rebound = {"client": "127.0.0.1", "host": "http://evil.example"}
    assert ask([SHORT], tokens=(), **here)[2] == [SHORT.detail]
    assert ask([SHORT], tokens=(), **rebound)[2] == [SHORT.summary]
    assert ask([SHORT], tokens=())[2] == [SHORT.summary]


def test_no_reason_tells_the_keys_of_an_object_store(tmp_path):
    source = f"file://key:secret@{tmp_path}"
    (adapter,) = Catalogue([source]).adapters().values()
    assert adapter.reason
    assert "secret" not in adapter.reason
