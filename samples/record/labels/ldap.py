"""Directory lookups over LDAP: OpenLDAP's slapd, queried by its command-line tools."""

import random
import subprocess
from pathlib import Path

from act import ActContext, Run
from scenario import WORDS, Server
from testbed import Testbed

DEBIAN = {"slapd": "slapd", "slapadd": "slapd", "ldapsearch": "ldap-utils"}
PYPI: dict[str, str] = {}
FILTER = "tcp port 389"
SNAP_BYTES = 80
PORTS = (389,)
FLOWS_PER_ACT = 1.4
AT_ONCE = 12
PAUSE_S = 0.6
SUFFIX = "dc=office,dc=example"
SCHEMAS = ("core", "cosine", "inetorgperson")
MANAGER, PASSWORD = f"cn=manager,{SUFFIX}", "no secret here"
AS_MANAGER = ("-D", MANAGER, "-w", PASSWORD)


def prepare(shared: Path, rng: random.Random) -> None:
    """Write a directory of some hundred people with their telephones."""
    lines = [f"dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: office\no: O\n"]
    for unit in ("people", "guests"):
        lines.append(f"dn: ou={unit},{SUFFIX}\nobjectClass: organizationalUnit\nou: {unit}\n")
    for number in range(300):
        name, family = rng.choice(WORDS), rng.choice(WORDS)
        unit = rng.choice(("people", "people", "guests"))
        phones = [f"telephoneNumber: +99 {rng.randint(10**6, 10**9)}"] * (rng.random() < 0.7)
        lines.append(
            "\n".join(
                [f"dn: uid={name}{number},ou={unit},{SUFFIX}", "objectClass: inetOrgPerson",
                 f"uid: {name}{number}", f"cn: {name} {family}", f"sn: {family}",
                 f"mail: {name}@{family}.example", *phones,
                 f"description: {' '.join(rng.choices(WORDS, k=rng.randint(1, 40)))}", ""]
            )
        )  # fmt: skip
    (shared / "people.ldif").write_text("\n".join(lines))


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start a slapd with all people in it."""
    (work / "data").mkdir()
    conf = work / "slapd.conf"
    conf.write_text(
        "".join(f"include /etc/ldap/schema/{name}.schema\n" for name in SCHEMAS)
        + f"modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {work}/pid\n"
        f'database mdb\nsuffix "{SUFFIX}"\nrootdn "{MANAGER}"\nrootpw "{PASSWORD}"\n'
        f"directory {work}/data\nmaxsize 67108864\n"
    )
    people = ["-l", str(shared / "people.ldif")]
    subprocess.run(["slapadd", "-q", "-f", str(conf), *people], check=True, capture_output=True)
    argv = ["slapd", "-d", "0", "-f", str(conf), "-h", "ldap://0.0.0.0/ ldap://[::]/"]
    testbed.start(server, argv, log=work / "log.txt")


def act(context: ActContext) -> list[Run]:
    """Return the process of a search, of a few over the same connection, or of a change."""
    rng = context.rng
    anonymous = ["-x", "-H", f"ldap://{context.name}", "-o", "nettimeout=4"]
    common = [*anonymous, *AS_MANAGER] if rng.random() < 0.4 else anonymous
    tree = rng.choice((SUFFIX, f"ou=people,{SUFFIX}", f"ou=guests,{SUFFIX}"))
    kind = rng.random()
    if kind < 0.2:
        queries = context.work / f"queries-{context.number}"
        queries.write_text("\n".join(rng.choices(WORDS, k=rng.randint(2, 6))))
        return [
            Run(argv=["ldapsearch", "-LLL", *common, "-b", tree, "-f", str(queries), "(cn=%s*)"])
        ]
    if kind < 0.3:
        uid = f"{rng.choice(WORDS)}-{context.number}"
        entry = context.work / f"entry-{context.number}"
        entry.write_text(
            f"dn: uid={uid},ou=guests,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: {uid}\n"
            f"cn: {uid}\nsn: {uid}\ndescription: {' '.join(rng.choices(WORDS, k=20))}\n"
        )
        return [Run(argv=["ldapadd", *anonymous, *AS_MANAGER, "-f", str(entry)])]
    if kind < 0.4:
        return [Run(argv=["ldapwhoami", *common])]
    word = rng.choice(WORDS)
    query = rng.choice((f"(cn={word}*)", f"(&(sn={word})(objectClass=inetOrgPerson))",
                        f"(|(mail={word}@*)(uid={word}*))"))  # fmt: skip
    wanted = rng.choice(([], ["mail"], ["cn", "telephoneNumber"], ["description"]))
    argv = ["ldapsearch", "-LLL", *common, "-b", tree, "-z", str(rng.choice((1, 3, 8))), query]
    times = rng.choice((1, 1, 2))
    return [Run(argv=[*argv, *wanted], after_s=k * rng.uniform(0.3, 2)) for k in range(times)]
