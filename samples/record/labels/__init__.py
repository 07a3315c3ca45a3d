"""The labels: a module each, all with the same names.

DEBIAN         {binary: Debian package} it needs
PYPI           {module: PyPI package} it needs
FILTER         the tcpdump filter of its flows
SNAP_BYTES     bytes captured of a packet
PORTS          ports every server listens on before the recording begins
FLOWS_PER_ACT  flows that one act makes, on average
AT_ONCE        acts that may run at the same time
PAUSE_S        mean pause between two acts of a client

prepare(shared, rng)                       make content once for all servers
serve(testbed, server, work, shared, tls)    start the server programs of one host
act(context)                                 the processes of one act of one client
"""

from labels import (
    bulk,
    call,
    chat,
    database,
    dns,
    ldap,
    mail,
    mqtt,
    ntp,
    ping,
    quic,
    snmp,
    ssh,
    video,
    voip,
    web,
)

LABELS = {
    "bulk": bulk,
    "call": call,
    "chat": chat,
    "database": database,
    "dns": dns,
    "ldap": ldap,
    "mail": mail,
    "mqtt": mqtt,
    "ntp": ntp,
    "ping": ping,
    "quic": quic,
    "snmp": snmp,
    "ssh": ssh,
    "video": video,
    "voip": voip,
    "web": web,
}
