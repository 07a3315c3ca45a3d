"""Receive mail with aiosmtpd on ports 25 and 465: smtp_server.py NAME CERTIFICATE KEY."""

import asyncio
import ssl
import sys

from aiosmtpd.smtp import SMTP


class Sink:
    """Takes every message and keeps none."""

    async def handle_DATA(self, server, session, envelope) -> str:
        """Return the answer to a message."""
        await asyncio.sleep(0.02)
        return f"250 2.0.0 Ok: queued as {abs(hash(envelope.content)) % 16**10:010X}"


async def main() -> None:
    """Serve for ever: 25 with STARTTLS, 465 with TLS from the start."""
    name, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()

    def session(tls: ssl.SSLContext | None) -> SMTP:
        return SMTP(Sink(), hostname=name, tls_context=tls, ident="ESMTP")

    for host in ("0.0.0.0", "::"):
        await loop.create_server(lambda: session(context), host, 25)
        await loop.create_server(lambda: session(None), host, 465, ssl=context)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
