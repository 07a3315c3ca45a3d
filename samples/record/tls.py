"""Certificates for the servers, under names of `.example`, signed by an authority of the run."""

import subprocess
from pathlib import Path

from scenario import Server

SIGNS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
SERVES = (
    "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\n"
    "extendedKeyUsage=serverAuth\n"
)


def make_authority(folder: Path) -> Path:
    """Make a root authority and an intermediate that signs; return the root's file."""
    ca = folder / "ca.pem"
    for name in ("ca", "between"):
        _request(folder / name, "rsa:4096", f"/CN=Samples {name}/O=Example Trust Services")
    (folder / "ca.ext").write_text(SIGNS)
    _openssl("x509", "-req", "-in", folder / "ca.csr", "-signkey", folder / "ca.key",
             "-days", "3650", "-extfile", folder / "ca.ext", "-out", ca)  # fmt: skip
    _sign(folder, "between", "ca", SIGNS)
    return ca


def make_certificate(folder: Path, server: Server) -> None:
    """Write `s<index>.pem`, certificate and intermediate, and `s<index>.key` for one server."""
    name = f"s{server.index}"
    names = [*server.names_v4, *server.names_v6]
    _request(folder / name, server.key, f"/CN={names[0]}")
    alternatives = [*(f"DNS:{text}" for text in names), f"IP:{server.v4}", f"IP:{server.v6}"]
    _sign(folder, name, "between", f"{SERVES}subjectAltName={','.join(alternatives)}\n")
    leaf = folder / f"{name}.pem"
    leaf.write_text(leaf.read_text() + (folder / "between.pem").read_text())
    (folder / f"{name}.key").chmod(0o644)


def _request(stem: Path, key: str, subject: str) -> None:
    """Write `<stem>.key` and `<stem>.csr`; `key` is `rsa:<bits>` or `ec:<curve>`."""
    kind, size = key.split(":")
    curve = [] if kind == "rsa" else ["-pkeyopt", f"ec_paramgen_curve:{size}"]
    _openssl("req", "-new", "-newkey", key if kind == "rsa" else "ec", *curve, "-nodes",
             "-keyout", stem.with_suffix(".key"), "-out", stem.with_suffix(".csr"),
             "-subj", subject)  # fmt: skip


def _sign(folder: Path, name: str, by: str, extensions: str) -> None:
    """Write `<name>.pem` from `<name>.csr`, signed by the authority `by`."""
    (folder / f"{name}.ext").write_text(extensions)
    _openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / f"{by}.pem",
             "-CAkey", folder / f"{by}.key", "-CAcreateserial", "-days", "3650",
             "-extfile", folder / f"{name}.ext", "-out", folder / f"{name}.pem")  # fmt: skip


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
