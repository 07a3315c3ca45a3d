"""How a request to the endpoint ended."""

from typing import Literal

Outcome = Literal["ok", "client_error", "rejected", "server_error", "gone"]
"""2xx or 3xx; 4xx; 429, at once; 5xx, or cut off by the endpoint; the client went away."""


def outcome_of(status: int) -> Outcome:
    """Return the outcome of an answer with that HTTP status."""
    if status == 429:
        return "rejected"
    return "ok" if status < 400 else "client_error" if status < 500 else "server_error"
