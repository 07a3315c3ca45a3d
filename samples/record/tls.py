"""Certificates for the servers, under names of `.example`, signed by an authority of the run."""

import subprocess
from pathlib import Path

from draw import Server


def make_authority(folder: Path) -> Path:
    """The file of a new certificate authority; its key lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    ca = folder / "ca.pem"
    _openssl(
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        folder / "ca.key",
        "-out",
        ca,
        "-days",
        "3650",
        "-subj",
        "/CN=Samples Root/O=Example",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    return ca


def make_certificate(folder: Path, server: Server) -> None:
    """Write `s<index>.pem`, `s<index>.key` for one server; the kind of key is the server's."""
    stem = folder / f"s{server.index}"
    kind, size = server.key.split(":")
    option = [] if kind == "rsa" else ["-pkeyopt", f"ec_paramgen_curve:{size}"]
    names = [*server.names_v4, *server.names_v6]
    extensions = stem.with_suffix(".ext")
    extensions.write_text(
        "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\n"
        "extendedKeyUsage=serverAuth\n"
        f"subjectAltName={','.join(f'DNS:{name}' for name in names)},"
        f"IP:{server.v4},IP:{server.v6}\n"
    )
    _openssl(
        "req",
        "-new",
        "-newkey",
        server.key if kind == "rsa" else "ec",
        *option,
        "-nodes",
        "-keyout",
        stem.with_suffix(".key"),
        "-out",
        stem.with_suffix(".csr"),
        "-subj",
        f"/CN={names[0]}",
    )
    _openssl(
        "x509",
        "-req",
        "-in",
        stem.with_suffix(".csr"),
        "-CA",
        folder / "ca.pem",
        "-CAkey",
        folder / "ca.key",
        "-CAcreateserial",
        "-days",
        "3650",
        "-extfile",
        extensions,
        "-out",
        stem.with_suffix(".pem"),
    )
    stem.with_suffix(".key").chmod(0o644)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
