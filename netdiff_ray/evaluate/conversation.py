"""The conversation section of a report: what hosts and a path do, which no field shows alone.

Counts of captures are summed, as summaries are: all flows, bootstrap replicates and halves of
random splits, so that captures can be counted anywhere and in any order.

Shape letters: N flows, P packets, M measures, W rows of weights (as in `summary`), L labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numba
import numpy as np

from netdiff_ray.errors import CaptureError
from netdiff_ray.evaluate.conversation_kernels import count_flows, window_scales
from netdiff_ray.evaluate.conversation_measures import (
    DNS_RECORDS,
    DNS_REPEATS,
    DNS_SEEN,
    EMPTY_UDP,
    FIRST_KIND,
    HANDSHAKE,
    MEASURES,
    Steps,
)
from netdiff_ray.evaluate.divergence import interval, wilson_interval
from netdiff_ray.evaluate.flow_blocks import (
    FlowPackets,
    complete_flows,
    packets_of_flows,
    text_hashes,
)
from netdiff_ray.evaluate.payload_kinds import (
    ANSWERS,
    HANDSHAKES,
    KINDS,
    MESSAGES,
    NOT_CAPTURED,
    dns_answers,
    payload_kinds,
    payload_messages,
    transactions,
)
from netdiff_ray.evaluate.payload_rows import PAYLOAD_ROW, payload_rows
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.sources import CAPTURES, NEVER_S, Source, Unit
from netdiff_ray.evaluate.summary import NUM_REPLICATES, flow_weights
from netdiff_ray.flows import DEFAULT_IDLE_TIMEOUT_S, assemble_flows
from netdiff_ray.header_bytes import (
    ACK,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SYN,
    TCP_ACKN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_SEQ,
    TCP_WSIZE,
    words16,
)
from netdiff_ray.packets import CaptureReader
from netdiff_ray.storage.store import Store

HEADLINE = (
    "largest_difference", "largest_difference_floor", "differing_shares", "compared_shares",
)  # fmt: skip
TOLERANCE = 0.02
"""A share differs if it does by more than this beyond its floor and the intervals are apart."""
MIN_FLOWS = 10
"""Fewest flows of a source in which a measure is judged for its share to be compared."""
_FIRST_SPLIT = 1 + NUM_REPLICATES
_MAX_PENDING = 64
_LARGEST_SHOWN = 20
_NOTES_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class ConversationCounts:
    """The steps of a source's conversations, counted."""

    by_label: dict[str, np.ndarray] = field(default_factory=dict)
    """(W, M, 3) int64: steps judged, those of which the measure is true, flows with any."""
    notes: frozenset[str] = frozenset()
    """Captures that were not read, or not to their end."""


def merge_counts(results: Iterable[ConversationCounts]) -> ConversationCounts:
    """Return the counts of several parts of a source."""
    by_label: dict[str, np.ndarray] = {}
    notes: frozenset[str] = frozenset()
    for result in results:
        for label, counts in result.by_label.items():
            by_label[label] = by_label[label] + counts if label in by_label else counts
        notes |= result.notes
    return ConversationCounts(by_label=by_label, notes=notes)


def count_conversations(
    source: Source, captures: Sequence[Unit] | None = None, *, salt: int
) -> ConversationCounts:
    """Return the counts of a source's captures, or of some of them.

    Args:
        salt: as `summarise` takes it.
    """
    captures = source.captures if captures is None else captures
    idle_timeout_s = DEFAULT_IDLE_TIMEOUT_S if source.kind == CAPTURES else NEVER_S
    return merge_counts(_count(source.store, unit, idle_timeout_s, salt) for unit in captures)


def _count(store: Store, capture: Unit, idle_timeout_s: float, salt: int) -> ConversationCounts:
    by_label: dict[str, np.ndarray] = {}
    try:
        with (
            store.filesystem.open_input_file(store.path(capture.name)) as file,
            CaptureReader(file, name=f"{store.uri}: {capture.name}") as reader,
        ):
            batches = assemble_flows(
                map(payload_rows, reader), reader.fingerprint,
                idle_timeout_s=idle_timeout_s, row_type=PAYLOAD_ROW,
            )  # fmt: skip
            for windows in complete_flows(batches):
                for packets in packets_of_flows(windows):
                    counts = weighted(count_steps(packets), text_hashes(packets.flow_id), salt)
                    by_label[capture.label] = by_label.get(capture.label, 0) + counts
            notes = {f"read in part: {reader.fault}"} if reader.fault else set()
    except CaptureError as error:
        notes = {f"left out: {error}"}
    except FileNotFoundError:
        notes = {f"left out: {store.uri}: {capture.name} is missing"}
    return ConversationCounts(by_label=by_label, notes=frozenset(notes))


def weighted(counts: np.ndarray, key: np.ndarray, salt: int) -> np.ndarray:
    """Return (W, M, 3) int64 of the counts (N, M, 2) of flows of (N,) uint64 keys."""
    judged = np.concatenate([counts, counts[:, :, :1] > 0], axis=2)
    summed = flow_weights(key, salt) @ judged.reshape(len(judged), -1)
    return np.rint(summed).astype(np.int64).reshape(-1, *judged.shape[1:])


def count_steps(packets: FlowPackets) -> np.ndarray:
    """Return (N, M, 2) int64: steps judged, and those of which each of MEASURES is true.

    Args:
        packets: with rows of PAYLOAD_ROW.
    """
    counts = np.zeros((len(packets.flow_id), len(MEASURES), 2), np.int64)
    count_flows(steps_of(packets), packets.first, counts)
    _count_payloads(packets, counts)
    return counts


def steps_of(packets: FlowPackets) -> Steps:
    """Return the packets as the kernels take them."""
    rows = packets.rows
    transport = rows["transport"]
    is_tcp = _is_tcp(rows)
    scale = np.empty(len(rows), np.int64)
    window_scales(rows, scale)
    return Steps(
        ts_ns=rows["ts_ns"].astype(np.int64),
        side=packets.direction.astype(np.uint8),
        is_tcp=is_tcp,
        flags=np.where(is_tcp, transport[:, TCP_FLAGS], 0).astype(np.uint8),
        seq=np.where(is_tcp, _words32(transport, TCP_SEQ), 0),
        ack=np.where(is_tcp, _words32(transport, TCP_ACKN), 0),
        window=np.where(is_tcp, words16(transport, TCP_WSIZE), 0),
        scale=np.where(is_tcp, scale, -1),
        payload_bytes=rows["payload_bytes"].astype(np.int64),
        has_payload=rows["payload_bytes"] > 0,
    )


def _is_tcp(rows: np.ndarray) -> np.ndarray:
    return (rows["protocol"] == IPPROTO_TCP) & (rows["transport_len"] >= TCP_HEADER_BYTES)


def _words32(headers: np.ndarray, at: int) -> np.ndarray:
    return words16(headers, at) << 16 | words16(headers, at + 2)


def _count_payloads(packets: FlowPackets, counts: np.ndarray) -> None:
    """Add what payloads show to counts (N, M, 2)."""
    rows, begins = packets.rows, packets.first[:-1]
    num_flows = len(begins)
    if not num_flows:
        return
    of_flow = np.repeat(np.arange(num_flows), np.diff(packets.first))

    def add(measure: int, judged: np.ndarray, is_true: np.ndarray) -> None:
        """Add (P,) bool of packets."""
        counts[:, measure, 0] += np.bincount(of_flow[judged], minlength=num_flows)
        counts[:, measure, 1] += np.bincount(of_flow[judged & is_true], minlength=num_flows)

    is_udp = (rows["protocol"] == IPPROTO_UDP) & (rows["transport_len"] > 0)
    add(EMPTY_UDP, is_udp, rows["payload_bytes"] == 0)
    queries, answers, has_records = dns_answers(rows)
    messages = payload_messages(rows)
    is_paired, repeats_name = _pair(packets, messages, queries, answers)
    add(DNS_SEEN, answers, is_paired)
    add(DNS_REPEATS, answers & is_paired, repeats_name)
    add(DNS_RECORDS, answers, has_records)

    kinds, is_tcp = payload_kinds(rows), _is_tcp(rows)
    is_unseen = np.logical_or.reduceat(kinds == NOT_CAPTURED, begins)
    flags = rows["transport"][:, TCP_FLAGS]
    opens = np.logical_or.reduceat(is_tcp & ((flags & (SYN | ACK)) == SYN), begins)
    speaks = np.where(is_tcp, (rows["payload_bytes"] > 0) & opens[of_flow], is_udp)
    number, begin = np.unique(of_flow[speaks], return_index=True)
    kind = kinds[np.flatnonzero(speaks)[begin]]
    for k in range(len(KINDS)):
        counts[number, FIRST_KIND + k, 0] = kind != NOT_CAPTURED
        counts[number, FIRST_KIND + k, 1] = kind == k

    judged = ~is_unseen & np.logical_or.reduceat(rows["payload_bytes"] > 0, begins)
    judged &= np.logical_or.reduceat(is_tcp | is_udp, begins)
    sent = [
        np.bitwise_or.reduceat(np.where(packets.direction == side, messages, 0), begins)
        for side in range(2)
    ]
    for k, name in enumerate(HANDSHAKES):
        opening, answer = _bits(HANDSHAKES[name]), _bits(ANSWERS[name])
        complete = np.zeros(num_flows, np.bool_)
        for side in range(2):
            complete |= ((sent[side] & opening) == opening) & ((sent[1 - side] & answer) == answer)
        counts[:, HANDSHAKE + k, 0] = judged
        counts[:, HANDSHAKE + k, 1] = judged & complete


def _bits(names: Sequence[str]) -> int:
    return sum(1 << MESSAGES.index(name) for name in names)


def _pair(
    packets: FlowPackets, messages: np.ndarray, queries: np.ndarray, answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (P,) bool: which answers have a request of their transaction, and of their name.

    Answers of STUN and Modbus that have none are taken out of `messages` (P,) int64.
    """
    from_server = packets.direction == 1
    modbus = (messages & _bits(["Modbus message"])) > 0
    responds = (messages & _bits(["STUN response"])) > 0
    is_request = queries | ((messages & _bits(["STUN request"])) > 0) | (modbus & ~from_server)
    is_answer = answers | responds | (modbus & from_server)
    is_paired, repeats_name = np.zeros((2, len(messages)), np.bool_)
    _pair_flows(
        packets.first, transactions(packets.rows), packets.rows["name_hash"].copy(),
        (is_request, is_answer), (is_paired, repeats_name),
    )  # fmt: skip
    messages[is_answer & ~is_paired] &= ~_bits(["STUN response", "Modbus message"])
    return is_paired, repeats_name


@numba.njit(cache=True)
def _pair_flows(first, transaction, name, kinds, results):
    """Pair the answers of each flow with the latest _MAX_PENDING requests.

    Args:
        first: (N + 1,) int64.
        transaction: (P,) int64.
        name: (P,) uint64 hash, 0 without.
        kinds: which are requests, and which answers, (P,) bool each.
        results: which are paired, and which of them repeat the name, filled.
    """
    is_request, is_answer = kinds
    is_paired, repeats_name = results
    pending = np.zeros(_MAX_PENDING, np.int64)
    for f in range(len(first) - 1):
        num_requests = 0
        for i in range(first[f], first[f + 1]):
            if is_request[i]:
                pending[num_requests % _MAX_PENDING] = i
                num_requests += 1
            elif is_answer[i]:
                for k in range(num_requests - 1, max(num_requests - _MAX_PENDING, 0) - 1, -1):
                    j = pending[k % _MAX_PENDING]
                    if transaction[j] == transaction[i]:
                        is_paired[i] = True
                        repeats_name[i] = name[i] == name[j] and name[i] != 0
                        break


def conversation_section(
    real: ConversationCounts | str, synthetic: ConversationCounts | str
) -> dict:
    """Return the section.

    Args:
        real: counts of the real source, or why it has none.
        synthetic: the same of the synthetic source.
    """
    reasons = [source for source in (real, synthetic) if isinstance(source, str)]
    if reasons:
        return not_available("; ".join(reasons), HEADLINE)
    notes = sorted(real.notes | synthetic.notes)
    labels = sorted(set(real.by_label) & set(synthetic.by_label))
    shares = {label: _compared(real.by_label[label], synthetic.by_label[label])
              for label in labels}  # fmt: skip
    compared = [
        (label, MEASURES[m], values) for label in labels for m, values in shares[label].items()
    ]
    usable = [entry for entry in compared if entry[2]["difference"] is not None]
    if not usable:
        why = f"no label has {MIN_FLOWS} flows of each source in which a share can be compared"
        return not_available("; ".join([why, *notes[:_NOTES_SHOWN]]), HEADLINE)
    usable.sort(key=lambda entry: (not entry[2]["differs"], -entry[2]["difference"]))
    label, name, worst = usable[0]
    return section(
        {
            "largest_difference": worst["difference"],
            "largest_difference_floor": worst["floor"],
            "differing_shares": sum(values["differs"] for _, _, values in usable),
            "compared_shares": len(usable),
        },
        notes=notes[:_NOTES_SHOWN],
        worst={"label": label, "share": name},
        tables=_tables(labels, shares, usable),
        shares={label: {MEASURES[m]: v for m, v in shares[label].items()} for label in labels},
    )


def _compared(real: np.ndarray, synthetic: np.ndarray) -> dict[int, dict]:
    """Return what a page says of each measure that is judged in either source.

    Args:
        real: (W, M, 3) counts of a label.
        synthetic: the same.
    """
    result = {}
    real_shares, synthetic_shares = _shares(real), _shares(synthetic)
    half = real[_FIRST_SPLIT:]
    halves = np.abs(_shares(half) - _shares(real[:1] - half))
    for m in np.flatnonzero(real[0, :, 1] + synthetic[0, :, 1] + _is_plain(real, synthetic)):
        ours, theirs = real_shares[:, m], synthetic_shares[:, m]
        floor = float(np.nanmax(halves[:, m], initial=0.0))
        difference = None
        if min(real[0, m, 2], synthetic[0, m, 2]) >= MIN_FLOWS:
            difference = abs(float(ours[0] - theirs[0]))
        values = {
            "real": float(ours[0]),
            "real_interval": _interval(ours, real[0, m, 2]),
            "synthetic": float(theirs[0]),
            "synthetic_interval": _interval(theirs, synthetic[0, m, 2]),
            "difference": difference,
            "floor": floor,
            "real_flows": int(real[0, m, 2]),
            "synthetic_flows": int(synthetic[0, m, 2]),
        }
        result[int(m)] = values | {"differs": _differs(values)}
    return result


def _differs(values: Mapping) -> bool:
    """Return whether a share differs beyond its floor and by more than the intervals allow."""
    if values["difference"] is None or values["difference"] <= values["floor"] + TOLERANCE:
        return False
    (low, high), (other_low, other_high) = values["real_interval"], values["synthetic_interval"]
    return high < other_low or other_high < low


def _is_plain(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Return (M,) bool: measures that are shown although true of no step."""
    is_judged = (real[0, :, 0] > 0) & (synthetic[0, :, 0] > 0)
    return is_judged & (np.arange(len(MEASURES)) < FIRST_KIND)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Return (W, M) shares, NaN where nothing is judged."""
    with np.errstate(invalid="ignore"):
        return counts[:, :, 1] / counts[:, :, 0]


def _interval(shares: np.ndarray, num_flows: int) -> tuple[float, float]:
    """Return the 95 % interval of the first of (W,) shares.

    By its replicates; Wilson's of `num_flows` flows where these are all the same.
    """
    share, replicates = float(shares[0]), shares[1:_FIRST_SPLIT]
    replicates = replicates[np.isfinite(replicates)]
    if len(replicates) and np.ptp(replicates) > 0:
        return interval(share, replicates)
    if not num_flows:
        return float("nan"), float("nan")
    return wilson_interval(share, num_flows)


def _tables(labels: list[str], shares: dict[str, dict[int, dict]], ranked: list) -> list[dict]:
    """Return the tables: the largest differences, then all shares by label."""
    columns = ["share", "real", "95 % interval", "synthetic", "95 % interval", "difference",
               "floor", "flows judged", "synthetic flows judged"]  # fmt: skip
    beyond = [entry for entry in ranked if entry[2]["differs"]]
    tables = [
        table(
            "What gives it away: the largest differences beyond the floor",
            ["label", *columns],
            [[label, name, *_cells(values)] for label, name, values in beyond[:_LARGEST_SHOWN]],
            f"A share differs if it does by more than {TOLERANCE} beyond its floor, which is the "
            "largest difference between two random halves of the real flows, and if the two "
            "intervals do not overlap.",
        )
    ]
    for label in labels:
        rows = [[MEASURES[m], *_cells(values)] for m, values in shares[label].items()]
        tables.append(
            table(
                f"Conversations of {label}", columns, rows,
                "Shares of the steps (packets, acknowledgements, gaps, runs, flows) that a measure "
                f"judges. Not compared where it judges fewer than {MIN_FLOWS} flows of a source.",
            )
        )  # fmt: skip
    return tables


def _cells(values: Mapping) -> list:
    keys = ("real", "real_interval", "synthetic", "synthetic_interval", "difference", "floor",
            "real_flows", "synthetic_flows")  # fmt: skip
    return [values[key] for key in keys]
