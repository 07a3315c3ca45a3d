"""Mail: aiosmtpd and Dovecot, with swaks, curl, smtplib, imaplib and poplib."""

import os
import random
import shutil
from pathlib import Path

from act import ActContext, Run, python
from scenario import WORDS, Server
from testbed import Testbed

DEBIAN = {"dovecot": "dovecot-imapd dovecot-pop3d", "swaks": "swaks", "curl": "curl"}
PYPI = {"aiosmtpd": "aiosmtpd"}
FILTER = "tcp"
SNAP_BYTES = 100
PORTS = (25, 110, 143, 465, 993)
FLOWS_PER_ACT = 0.9
AT_ONCE = 10
PAUSE_S = 0.5
MAIL_UID = 8
"""Debian's user `mail`."""
DOVECOT = """
protocols = imap pop3
listen = *, ::
base_dir = {work}/run
state_dir = {work}/run
log_path = {work}/dovecot.log
ssl = yes
ssl_cert = <{tls}/s{index}.pem
ssl_key = <{tls}/s{index}.key
disable_plaintext_auth = no
first_valid_uid = 1
mail_location = maildir:{work}/mail
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid=8 gid=8 home={work}
}}
"""


def letter(rng: random.Random) -> str:
    """Return a message of some length (RFC 5322)."""
    words = rng.choices(WORDS, k=int(min(3000, rng.lognormvariate(4.5, 1.1))))
    lines = [" ".join(words[at : at + 10]) for at in range(0, len(words), 10)]
    return (
        f"From: {rng.choice(WORDS)}@{rng.choice(WORDS)}.example\r\n"
        f"To: {rng.choice(WORDS)}@{rng.choice(WORDS)}.example\r\n"
        f"Subject: {' '.join(rng.choices(WORDS, k=rng.randint(1, 8)))}\r\n"
        f"Message-ID: <{rng.getrandbits(64):x}@{rng.choice(WORDS)}.example>\r\n\r\n"
        + "\r\n".join(lines)
        + "\r\n"
    )


def prepare(shared: Path, rng: random.Random) -> None:
    """Write a mailbox with fifteen messages."""
    for folder in ("new", "cur", "tmp"):
        (shared / "mail" / folder).mkdir(parents=True)
    for number in range(15):
        (shared / "mail" / "new" / f"{1700000000 + number}.M{number}.box").write_text(letter(rng))


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start Dovecot for IMAP and POP3, aiosmtpd for SMTP."""
    shutil.copytree(shared / "mail", work / "mail")
    for path in [work, *(work / "mail").rglob("*"), work / "mail"]:
        os.chown(path, MAIL_UID, MAIL_UID)
    (work / "run").mkdir()
    conf = work / "dovecot.conf"
    conf.write_text(DOVECOT.format(work=work, tls=tls, index=server.index))
    testbed.start(server, ["dovecot", "-F", "-c", str(conf)], log=work / "log.txt")
    testbed.start(
        server,
        python(
            "smtp_server.py",
            server.names_v4[0],
            tls / f"s{server.index}.pem",
            tls / f"s{server.index}.key",
        ),
        log=work / "log.txt",
    )


def act(context: ActContext) -> list[Run]:
    """Return the process of a user who sends a message or reads some."""
    rng = context.rng
    name = context.name
    file = context.work / f"letter-{context.number}.eml"
    file.write_text(letter(rng))
    sender, receiver = (f"{rng.choice(WORDS)}@{rng.choice(WORDS)}.example" for _ in range(2))
    kind = rng.random()
    if kind < 0.25:
        argv = [
            "swaks",
            "--silent",
            "3",
            "--server",
            name,
            "--from",
            sender,
            "--to",
            receiver,
            "--ehlo",
            f"{rng.choice(WORDS)}.example",
            "--body",
            f"@{file}",
            "--timeout",
            "15",
        ]
        return [Run(argv=argv + rng.choice(([], ["-tls"], ["-tls"])))]
    if kind < 0.45:
        scheme = rng.choice(("smtp", "smtp", "smtps"))
        argv = [
            "curl",
            "-s",
            "-m",
            "20",
            "--cacert",
            str(context.ca),
            f"{scheme}://{name}",
            "--mail-from",
            sender,
            "--mail-rcpt",
            receiver,
            "-T",
            str(file),
        ]
        return [Run(argv=argv + (["--ssl-reqd"] if rng.random() < 0.4 else []))]
    if kind < 0.7:
        scheme = rng.choice(("imap", "imaps", "imaps", "pop3", "pop3"))
        path = {"i": f"/INBOX;MAILINDEX={rng.randint(1, 15)}", "p": f"/{rng.randint(1, 15)}"}
        argv = [
            "curl",
            "-s",
            "-m",
            "20",
            "--cacert",
            str(context.ca),
            "-u",
            "user:secret",
            f"{scheme}://{name}{path[scheme[0]] if rng.random() < 0.8 else '/'}",
        ]
        return [Run(argv=argv + (["--ssl-reqd"] if rng.random() < 0.4 else []))]
    return [
        Run(
            argv=python(
                "mail_client.py",
                rng.choice(("smtp", "imap", "imap", "pop3")),
                name,
                context.ca,
                rng.random() < 0.5,
                rng.random(),
                file,
            )
        )
    ]
