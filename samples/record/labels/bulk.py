"""Files moved as fast as the link lets them: FTP, rsync's daemon, HTTP uploads."""

import random
from pathlib import Path

from act import Place, Run
from nginx import serve_nginx
from scenario import WORDS, Server
from testbed import World

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
    """Forty files of 300 bytes to 250 kB and a large one, and the folder for what comes in."""
    root = shared / "files"
    root.mkdir()
    for number in range(40):
        size = int(300 * 800 ** rng.random())
        line = (",".join(rng.choices(WORDS, k=12)) + "\n").encode()
        (root / f"part-{number:02}.csv").write_bytes((line * (size // len(line) + 1))[:size])
    (root / "large.bin").write_bytes(bytes(1_300_000))
    (root / "in").mkdir()
    (root / "in").chmod(0o777)


def serve(world: World, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """vsftpd, an rsync daemon and nginx over the same folder."""
    root = shared / "files"
    (work / "empty").mkdir()
    (work / "vsftpd.conf").write_text(VSFTPD.format(root=root, work=work))
    world.start(server, ["vsftpd", str(work / "vsftpd.conf")], log=work / "log.txt")
    (work / "rsyncd.conf").write_text(
        f"uid = root\ngid = root\nuse chroot = no\npid file = {work}/rsyncd.pid\n"
        f"[files]\npath = {root}\nread only = no\n"
    )
    world.start(
        server,
        ["rsync", "--daemon", "--no-detach", f"--config={work / 'rsyncd.conf'}"],
        log=work / "log.txt",
    )
    serve_nginx(world, server, work, root, tls)


def upload(file: Path, url: str) -> Run:
    """A curl that sends one file there."""
    return Run(argv=["curl", "-s", "-m", "30", "-T", str(file), url])


def act(place: Place) -> list[Run]:
    """One transfer of a file or a few."""
    rng = place.rng
    root = place.work.parent / "shared" / "files"
    files = [f"part-{rng.randrange(40):02}.csv" for _ in range(rng.choice((1, 1, 2, 3)))]
    if place.number in LARGE_ACTS:
        files = ["large.bin"]
    name = place.name
    kind = rng.random()
    if kind < 0.4:
        return [Run(argv=rsync(place, root, files))]
    if kind < 0.46:
        return [upload(root / files[0], f"http://{name}/up/{place.number}")]
    if kind < 0.8:
        outputs = [part for file in files for part in ("-o", "/dev/null", f"ftp://{name}/{file}")]
        return [Run(argv=["curl", "-s", "-m", "30", *outputs])]
    if kind < 0.9:
        return [upload(root / files[0], f"ftp://{name}/in/{place.number}-{rng.randrange(10**6)}")]
    commands = "; ".join(f"get {file} -o {place.work}/got-{place.number}" for file in files)
    commands = f"set xfer:clobber yes; set ftp:ssl-allow no; ls; {commands}; bye"
    return [Run(argv=["lftp", "-e", commands, f"ftp://{name}"])]


def rsync(place: Place, root: Path, files: list[str]) -> list[str]:
    """An rsync command line, down or up."""
    remote = f"rsync://{place.name}/files"
    options = place.rng.choice((["-a"], ["-a", "-W"], ["-t"], ["-a", "-c"]))
    if place.rng.random() < 0.6:
        return [
            "rsync",
            *options,
            *[f"{remote}/{file}" for file in files],
            f"{place.work}/got-{place.number}/",
        ]
    return [
        "rsync",
        *options,
        *[str(root / file) for file in files],
        f"{remote}/in/{place.number}/",
    ]
