"""Send or read mail as a mail program does: mail_client.py KIND HOST CA TLS SEED LETTER."""

import imaplib
import poplib
import random
import smtplib
import ssl
import sys
import time
from pathlib import Path


def send(host: str, context: ssl.SSLContext | None, rng: random.Random, letter: str) -> None:
    """Send the letter once or a few times over one connection."""
    with smtplib.SMTP(host, timeout=15) as server:
        if context:
            server.starttls(context=context)
        for _ in range(rng.choice((1, 1, 2, 3))):
            server.sendmail("desk@office.example", ["box@post.example"], letter)
            time.sleep(rng.uniform(0, 1))


def read_imap(host: str, context: ssl.SSLContext | None, rng: random.Random) -> None:
    """Look into the mailbox, read a few messages, wait a little for new ones."""
    with imaplib.IMAP4(host, timeout=15) as box:
        if context:
            box.starttls(context)
        box.login("user", "secret")
        box.select("INBOX", readonly=True)
        box.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (FROM SUBJECT DATE)])")
        for _ in range(rng.randint(0, 4)):
            time.sleep(rng.uniform(0.1, 1.2))
            box.fetch(str(rng.randint(1, 15)), "(BODY.PEEK[])")
        box.noop()


def read_pop3(host: str, context: ssl.SSLContext | None, rng: random.Random) -> None:
    """List the mailbox and fetch a few messages."""
    box = poplib.POP3(host, timeout=15)
    if context:
        box.stls(context)
    box.user("user")
    box.pass_("secret")
    box.list()
    for _ in range(rng.randint(1, 4)):
        box.retr(rng.randint(1, 15))
    box.quit()


def main() -> None:
    """Do what KIND says: smtp, imap or pop3."""
    kind, host, ca, tls, seed, letter = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca) if tls == "True" else None
    rng = random.Random(seed)
    if kind == "smtp":
        send(host, context, rng, Path(letter).read_text())
    else:
        {"imap": read_imap, "pop3": read_pop3}[kind](host, context, rng)


if __name__ == "__main__":
    main()
