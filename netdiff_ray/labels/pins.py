"""Restrict labels' statistics to what users fix of the plans; these are drawn from the rest."""

from collections.abc import Collection
from dataclasses import replace

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, label_statistics
from netdiff_ray.labels.host_lengths import HostLength
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.loss import losses_between, share_bounds
from netdiff_ray.labels.path import HANDSHAKE_PACKETS, paths_between, round_trip_ns
from netdiff_ray.labels.stack import NO_SYN, TIMESTAMPED
from netdiff_ray.labels.statistics import LabelStatistics, ServiceStatistics


def pin_metadata(
    metadata: AdapterMetadata, labels: Collection[str], pins: PlanPins
) -> AdapterMetadata:
    """Return an adapter's metadata with only those flows of `labels` that have what is pinned.

    Services, lengths and stacks keep their proportions. Of a bin of lengths that is cut, as large
    a part of its flows is left as of its lengths.

    Raises:
        ConfigError: the adapter has no such label, or none of a label's flows has what is pinned;
            the message says what they have.
    """
    if not _text_of_pins(pins):
        return metadata
    pinned = {label: _pin_label(label, label_statistics(metadata, label), pins) for label in labels}
    return replace(metadata, labels={**metadata.labels, **pinned})


def _pin_label(label: str, statistics: LabelStatistics, pins: PlanPins) -> LabelStatistics:
    services = {
        name: _pin_service(service, pins)
        for name, service in statistics.services.items()
        if pins.service in (None, name)
    }
    left = {name: service for name, service in services.items() if service.num_flows}
    if not left:
        raise ConfigError(
            f"no flow of label {label!r} is as pinned ({_text_of_pins(pins)}); its flows are "
            f"{'; '.join(_text_of(name, own) for name, own in statistics.services.items())}"
        )
    return LabelStatistics(services=left)


def _pin_service(statistics: ServiceStatistics, pins: PlanPins) -> ServiceStatistics:
    """Return the statistics of the flows that have the pinned IP version, length, path and loss."""
    if pins.rtt_ms is not None:
        statistics = _pin_path(statistics, pins)
    if pins.loss is not None:
        statistics = _pin_loss(statistics, pins)
    lengths, one_way = (
        {
            headers: cut
            for headers, bins in table.items()
            if _has_version(headers, pins) and (cut := _cut_bins(bins, pins))
        }
        for table in (statistics.lengths, statistics.one_way_lengths)
    )
    if any(pin is not None for pin in (pins.min_packets, pins.max_packets, pins.loss)):
        statistics = replace(
            statistics, duplicates=[]
        )  # they would count as more, and as sent again
    pinned = replace(
        statistics, lengths=lengths, one_way_lengths=one_way,
        stacks=[row for row in statistics.stacks if _has_version(row.headers, pins)],
        host_lengths=_cut_host_lengths(statistics.host_lengths, pins),
    )  # fmt: skip
    return replace(pinned, num_flows=sum(length.flows for _, _, length in pinned.length_bins))


def _pin_path(statistics: ServiceStatistics, pins: PlanPins) -> ServiceStatistics:
    """Return the statistics of the flows that a handshake with the pinned times opens."""
    bounds = pins.rtt_ns()
    paths = paths_between(statistics.paths, *bounds) if bounds else []
    stacks = [
        row
        for row in statistics.stacks
        if paths and row.stack.opens == 1 and row.server_options != NO_SYN
    ]
    headers = {row.headers.removesuffix(TIMESTAMPED) for row in stacks}
    lengths = {
        of: _cut_bins(bins, PlanPins(min_packets=HANDSHAKE_PACKETS))
        for of, bins in statistics.lengths.items()
        if of.removesuffix(TIMESTAMPED) in headers
    }
    return replace(
        statistics, paths=paths, stacks=stacks, one_way_lengths={},
        host_lengths=_cut_host_lengths(
            statistics.host_lengths, PlanPins(min_packets=HANDSHAKE_PACKETS)
        ),
        lengths={of: bins for of, bins in lengths.items() if bins},
    )  # fmt: skip


def _pin_loss(statistics: ServiceStatistics, pins: PlanPins) -> ServiceStatistics:
    """Return the statistics of the flows of which as many segments as pinned are sent again."""
    bounds = pins.loss_shares()
    losses = losses_between(statistics.losses, *bounds) if bounds else []
    if not losses:
        return replace(statistics, losses=[], stacks=[], lengths={}, one_way_lengths={})
    return replace(statistics, losses=losses)


def _has_version(headers: str, pins: PlanPins) -> bool:
    """Return whether flows with these headers have the pinned IP version."""
    return pins.ip_version is None or headers.startswith(f"ipv{pins.ip_version}")


def _cut_bins(bins: list[LengthBin], pins: PlanPins) -> list[LengthBin]:
    """Return the parts of bins that are within the pinned lengths."""
    cut = []
    for fewest, most, flows in bins:
        least = max(fewest, pins.min_packets or fewest)
        greatest = min(most, pins.max_packets or most)
        if least <= greatest:
            share = (greatest - least + 1) / (most - fewest + 1)
            cut.append(LengthBin(least, greatest, max(1, round(flows * share))))
    return cut


def _cut_host_lengths(rows: list[HostLength], pins: PlanPins) -> list[HostLength]:
    """Return the parts of hosts' lengths that are within the pinned ones."""
    return [
        HostLength(*row.kind, *length) for row in rows for length in _cut_bins([row.length], pins)
    ]


def _text_of_pins(pins: PlanPins) -> str:
    """Return what is pinned of what labels' statistics have, in words."""
    version = f"IPv{pins.ip_version}" if pins.ip_version else None
    least = f"at least {pins.min_packets:,} packets" if pins.min_packets else None
    most = f"at most {pins.max_packets:,} packets" if pins.max_packets else None
    times = pins.rtt_ns()
    path = f"handshakes of {times[0] / 1e6:g} to {times[1] / 1e6:g} ms" if times else None
    bounds = pins.loss_shares()
    loss = f"{bounds[0]:g} to {bounds[1]:g} of the segments sent again" if bounds else None
    return ", ".join(text for text in (pins.service, version, least, most, path, loss) if text)


def _text_of(name: str, statistics: ServiceStatistics) -> str:
    """Return what a service's flows are, in words."""
    headers = {headers for headers, _, _ in statistics.length_bins}
    versions = [f"IPv{k}" for k in (4, 6) if any(h.startswith(f"ipv{k}") for h in headers)]
    lengths = f"{statistics.fewest_packets:,} to {statistics.most_packets:,} packets"
    what = [
        " and ".join(versions) or "other headers", lengths, *_text_of_paths(statistics),
        *_text_of_losses(statistics),
    ]  # fmt: skip
    return f"{name}: {', '.join(what)}"


def _text_of_paths(statistics: ServiceStatistics) -> list[str]:
    """Return how long a service's handshakes take, in words."""
    if not statistics.paths:
        return []
    least = min(round_trip_ns(row.client_least, row.server_least, 0.0) for row in statistics.paths)
    most = max(round_trip_ns(row.client_most, row.server_most, 1.0) for row in statistics.paths)
    return [f"handshakes of {least / 1e6:.3g} to {most / 1e6:.3g} ms"]


def _text_of_losses(statistics: ServiceStatistics) -> list[str]:
    """Return how large a part of a service's segments is sent again, in words."""
    if not statistics.losses:
        return []
    bounds = [share_bounds(row.loss) for row in statistics.losses]
    least, most = min(low for low, _ in bounds), max(high for _, high in bounds)
    return [
        f"{least:.2g} to {most:.2g} of the segments sent again" if most else "no segment sent again"
    ]
