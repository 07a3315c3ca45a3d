"""Authorisation: bearer tokens and their roles (RFC 6750), or clients of this machine only."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping

from fastapi import Request

from netdiff_ray.config.serve import LOOPBACK, Role
from netdiff_ray.serving.problems import Problem


def admit(request: Request, role: Role, roles: Mapping[str, Role]) -> None:
    """Raise Problem unless the request may do what needs `role`.

    Without tokens, only clients of this machine are admitted, and only under a loopback name: a
    page of another site whose name resolves to this machine (DNS rebinding) is not.

    Args:
        roles: role by hex SHA-256 of a token.

    Raises:
        Problem: 401 without a valid token, 403 with a token of too weak a role, or from another
            machine, 421 under another host's name.
    """
    if not roles:
        _admit_local(request)
        return
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Problem(
            401, "a token is needed: Authorization: Bearer <token>",
            {"WWW-Authenticate": 'Bearer realm="netdiff"'},
        )  # fmt: skip
    presented = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
    granted: Role | None = None
    for digest, token_role in roles.items():
        if hmac.compare_digest(digest, presented):
            granted = token_role
    if granted is None:
        raise Problem(
            401, "the token is not valid here",
            {"WWW-Authenticate": 'Bearer realm="netdiff", error="invalid_token"'},
        )  # fmt: skip
    if role == "submit" and granted != "submit":
        raise Problem(
            403, "the token's role is draw; this needs one of role submit",
            {"WWW-Authenticate": 'Bearer realm="netdiff", error="insufficient_scope"'},
        )  # fmt: skip


def is_admitted(request: Request, role: Role, roles: Mapping[str, Role]) -> bool:
    """Return whether the request may do what needs `role`; see `admit`."""
    try:
        admit(request, role, roles)
    except Problem:
        return False
    return True


def _admit_local(request: Request) -> None:
    if not (request.client and _is_loopback(request.client.host)):
        raise Problem(
            403, "the endpoint has no tokens, and so answers clients of its machine only; "
            "configure tokens",
        )  # fmt: skip
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if not (name.lower() in LOOPBACK or _is_loopback(name.strip("[]"))):
        raise Problem(421, f"this is not {name!r}; use 127.0.0.1 or localhost")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
