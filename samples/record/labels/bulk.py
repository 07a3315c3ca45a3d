"""Files moved as fast as the link lets them: FTP, rsync's daemon, HTTP uploads."""

import random
from pathlib import Path

from act import ActContext, Run
from nginx import serve_nginx
from scenario import WORDS, Server
from testbed import Testbed

DEBIAN = {
    "vsftpd": "vsftpd",
    "rsync": "rsync",
    "nginx": "nginx",
    "curl": "curl",
    "lftp": "lftp",
}
PYPI: dict[str, str] = {}
FILTER = "tcp"
SNAP_BYTES = 100
PORTS = (21, 80, 873)
FLOWS_PER_ACT = 1.7
AT_ONCE = 8
PAUSE_S = 0.8
LARGE_ACTS = (3, 23, 45)
"""The acts that move a large file."""
VSFTPD = """
listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={root}
anon_upload_enable=YES
anon_umask=022
write_enable=YES
seccomp_sandbox=NO
secure_chroot_dir={work}/empty
pasv_min_port=40000
pasv_max_port=40999
"""


def prepare(shared: Path, rng: random.Random) -> None:
    """Write forty files of 300 bytes to 250 kB, a large file and a folder for uploads."""
    root = shared / "files"
    root.mkdir()
    for number in range(40):
        size = int(300 * 800 ** rng.random())
        line = (",".join(rng.choices(WORDS, k=12)) + "\n").encode()
        (root / f"part-{number:02}.csv").write_bytes((line * (size // len(line) + 1))[:size])
    (root / "large.bin").write_bytes(bytes(1_300_000))
    (root / "in").mkdir()
    (root / "in").chmod(0o777)


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start vsftpd, an rsync daemon and nginx over the same folder."""
    root = shared / "files"
    (work / "empty").mkdir()
    (work / "vsftpd.conf").write_text(VSFTPD.format(root=root, work=work))
    testbed.start(server, ["vsftpd", str(work / "vsftpd.conf")], log=work / "log.txt")
    (work / "rsyncd.conf").write_text(
        f"uid = root\ngid = root\nuse chroot = no\npid file = {work}/rsyncd.pid\n"
        f"[files]\npath = {root}\nread only = no\n"
    )
    testbed.start(
        server,
        ["rsync", "--daemon", "--no-detach", f"--config={work / 'rsyncd.conf'}"],
        log=work / "log.txt",
    )
    serve_nginx(testbed, server, work, root, tls)


def upload(file: Path, url: str) -> Run:
    """Return the process of a curl that sends a file to `url`."""
    return Run(argv=["curl", "-s", "-m", "30", "-T", str(file), url])


def act(context: ActContext) -> list[Run]:
    """Return the processes of a transfer of a file or a few."""
    rng = context.rng
    root = context.work.parent / "shared" / "files"
    files = [f"part-{rng.randrange(40):02}.csv" for _ in range(rng.choice((1, 1, 2, 3)))]
    if context.number in LARGE_ACTS:
        files = ["large.bin"]
    name = context.name
    kind = rng.random()
    if kind < 0.4:
        return [Run(argv=rsync(context, root, files))]
    if kind < 0.46:
        return [upload(root / files[0], f"http://{name}/up/{context.number}")]
    if kind < 0.8:
        outputs = [part for file in files for part in ("-o", "/dev/null", f"ftp://{name}/{file}")]
        return [Run(argv=["curl", "-s", "-m", "30", *outputs])]
    if kind < 0.9:
        return [upload(root / files[0], f"ftp://{name}/in/{context.number}-{rng.randrange(10**6)}")]
    commands = "; ".join(f"get {file} -o {context.work}/got-{context.number}" for file in files)
    commands = f"set xfer:clobber yes; set ftp:ssl-allow no; ls; {commands}; bye"
    return [Run(argv=["lftp", "-e", commands, f"ftp://{name}"])]


def rsync(context: ActContext, root: Path, files: list[str]) -> list[str]:
    """Return an rsync command line, down or up."""
    remote = f"rsync://{context.name}/files"
    options = context.rng.choice((["-a"], ["-a", "-W"], ["-t"], ["-a", "-c"]))
    if context.rng.random() < 0.6:
        return [
            "rsync",
            *options,
            *[f"{remote}/{file}" for file in files],
            f"{context.work}/got-{context.number}/",
        ]
    return [
        "rsync",
        *options,
        *[str(root / file) for file in files],
        f"{remote}/in/{context.number}/",
    ]
