"""The columns of label files: of public datasets and tools, and the guessing of others.

Sources: CICFlowMeter's FlowFeature and the pages of CIC-IDS2017 and CSE-CIC-IDS2018 (Canadian
Institute for Cybersecurity); NUSW-NB15_features.csv of UNSW-NB15, whose four tables have no header
line; the binetflow files of CTU-13, which Argus' `ra` wrote.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from netdiff_ray.errors import ConfigError

US_NS, MS_NS, S_NS = 10**3, 10**6, 10**9

FIELDS = ("src", "dst", "sport", "dport", "protocol", "start", "end", "duration", "label")
"""What label rows may say."""
REQUIRED = ("src", "dst", "start", "label")

_GUESSES = {
    "src": "srcip sourceip srcaddr saddr idorigh srcipaddr sourceaddress ipsrc src source sa "
    "ipv4srcaddr srcipaddress sourceipaddress origip clientip",
    "dst": "dstip destinationip dstaddr daddr idresph dstipaddr destinationaddress ipdst dst "
    "destination da ipv4dstaddr destip dstipaddress destinationipaddress respip serverip",
    "sport": "sport srcport sourceport idorigp l4srcport sp clientport",
    "dport": "dport dsport dstport destinationport idrespp l4dstport destport dp serverport",
    "protocol": "protocol proto ipprotocol ipproto prot",
    "start": "stime starttime timestamp ts start flowstart flowstartmilliseconds firstseen time "
    "datetime startts starttsns flowstarttime",
    "end": "ltime endtime end lasttime flowend flowendmilliseconds lastseen te stoptime endts "
    "finishtime finish flowendtime",
    "duration": "dur duration flowduration td durationms durationus flowdurationmilliseconds",
    "label": "label class attackcat category attack attacktype attackname detailedlabel labels "
    "traffictype trafficcategory type",
}
"""Names of columns, without case, space and punctuation, by field; the first that a header has is
taken."""


class LabelFormat(NamedTuple):
    """What is known of a form of label files."""

    columns: Mapping[str, str]
    """Field to the name of its column."""
    duration_ns: int = S_NS
    """Unit of durations."""
    empty_label: str = ""
    """The label of rows whose label is empty; "" leaves them without."""
    header: Sequence[str] = ()
    """Names of the columns of files without a header line."""


_UNSW_HEADER = (
    "srcip sport dstip dsport proto state dur sbytes dbytes sttl dttl sloss dloss service Sload "
    "Dload Spkts Dpkts swin dwin stcpb dtcpb smeansz dmeansz trans_depth res_bdy_len Sjit Djit "
    "Stime Ltime Sintpkt Dintpkt tcprtt synack ackdat is_sm_ips_ports ct_state_ttl "
    "ct_flw_http_mthd is_ftp_login ct_ftp_cmd ct_srv_src ct_srv_dst ct_dst_ltm ct_src_ltm "
    "ct_src_dport_ltm ct_dst_sport_ltm ct_dst_src_ltm attack_cat Label"
)
_CIC_2017 = {
    "src": "Source IP", "dst": "Destination IP", "sport": "Source Port",
    "dport": "Destination Port", "protocol": "Protocol", "start": "Timestamp",
    "duration": "Flow Duration", "label": "Label",
}  # fmt: skip
_CIC_2018 = {
    "src": "Src IP", "dst": "Dst IP", "sport": "Src Port", "dport": "Dst Port",
    "protocol": "Protocol", "start": "Timestamp", "duration": "Flow Duration", "label": "Label",
}  # fmt: skip
_UNSW = {
    "src": "srcip", "dst": "dstip", "sport": "sport", "dport": "dsport", "protocol": "proto",
    "start": "Stime", "end": "Ltime", "label": "attack_cat",
}  # fmt: skip
_CTU = {
    "src": "SrcAddr", "dst": "DstAddr", "sport": "Sport", "dport": "Dport", "protocol": "Proto",
    "start": "StartTime", "duration": "Dur", "label": "Label",
}  # fmt: skip
TABLE_FORMATS = {
    "cic-ids2017": LabelFormat(_CIC_2017, duration_ns=US_NS),
    "cic-ids2018": LabelFormat(_CIC_2018, duration_ns=US_NS),
    "unsw-nb15": LabelFormat(_UNSW, empty_label="Normal", header=_UNSW_HEADER.split()),
    "ctu-13": LabelFormat(_CTU),
}
"""Forms of CSV files, by name."""


def plain(name: str) -> str:
    """Return the name of a column without case, space and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def columns_of(
    header: Sequence[str], file: str, *, form: str, chosen: Mapping[str, str]
) -> tuple[LabelFormat, dict[str, int]]:
    """Return the format of a table, and the position of each field's column.

    Args:
        header: names of the columns.
        file: its name, for errors.
        form: a name of TABLE_FORMATS, or `auto` or `csv`.
        chosen: field to the name of its column, as the user has it.

    Raises:
        ConfigError: a column is not there, or a required one cannot be guessed.
    """
    positions = {plain(name): k for k, name in reversed(list(enumerate(header)))}
    if form == "auto":
        form = next((name for name, known in TABLE_FORMATS.items() if _is_of(known, positions)), "")
    table = TABLE_FORMATS.get(form)
    wanted = {**(table.columns if table else {}), **chosen}
    found = {}
    for field, name in wanted.items():
        if plain(name) not in positions:
            raise ConfigError(f"{file}: {_no_column(field, name, header)}")
        found[field] = positions[plain(name)]
    if table is None:
        for field, names in _GUESSES.items():
            match = next((n for n in names.split() if n in positions), None)
            if field not in found and match is not None:
                found[field] = positions[match]
        unit = _duration_unit(header[found["duration"]]) if "duration" in found else S_NS
        table = LabelFormat({}, duration_ns=unit)
    missing = [field for field in REQUIRED if field not in found]
    if missing:
        raise ConfigError(
            f"{file}: cannot tell which columns are {', '.join(missing)} among "
            f"{_listed(header)}; name them, as in {missing[0]}=NAME"
            + _WITHOUT_ADDRESSES
            * ("src" in missing and "dst" in missing)
        )
    return table, found


_WITHOUT_ADDRESSES = (
    ". Rows without addresses, as in CIC's tables for machine learning, cannot be joined with "
    "flows: take those that have them (of CIC-IDS2017, GeneratedLabelledFlows)"
)


def _is_of(form: LabelFormat, positions: Mapping[str, int]) -> bool:
    return all(plain(name) in positions for name in form.columns.values())


def _no_column(field: str, name: str, header: Sequence[str]) -> str:
    return f"no column {name!r}, for {field}, among {_listed(header)}"


def _listed(header: Sequence[str]) -> str:
    names = [name.strip()[:40] for name in header[:30]]
    return ", ".join(names) + f" and {len(header) - 30} more" * (len(header) > 30)


def _duration_unit(name: str) -> int:
    """Return the nanoseconds of the unit that a duration's column has by its name."""
    short = plain(name)
    if short == "flowduration" or short.endswith(("us", "microseconds")):
        return US_NS
    return MS_NS if short.endswith(("ms", "milliseconds")) else S_NS
