"""The verbs that bring datasets into other tools and before eyes: each carries its configuration
out, prints the result and returns the exit code.
"""

import json
import sys

from netdiff_ray.cli.results import EXIT_OK, EXIT_PARTIAL
from netdiff_ray.config import ExportConfig, ReplayConfig, ShowConfig
from netdiff_ray.progress import ProgressLine


def export_verb(config: ExportConfig) -> int:
    from netdiff_ray.export.run import export
    from netdiff_ray.storage.store import public_uri

    progress = ProgressLine("exported", "shards", as_json=config.json)
    try:
        done = export(config, progress)
    finally:
        progress.end()
    num_bytes = sum(file["bytes"] for file in done.files.values())
    where = public_uri(config.target)
    if config.json:
        print(
            json.dumps(
                {
                    "target": where, "files": done.files, "flows": done.num_flows,
                    "packets": done.num_packets, "shared": done.num_shared,
                }
            )
        )  # fmt: skip
    else:
        names = ", ".join(sorted(done.files)[:3]) + ", ..." * (len(done.files) > 3)
        print(
            f"{where}: {done.num_flows:,} flows, {done.num_packets:,} packets in "
            f"{len(done.files):,} files ({names}), {num_bytes:,} bytes"
        )
    if done.num_shared:
        print(
            f"netdiff: {done.num_shared:,} flows have their protocol and endpoints in common with "
            "another; tell them apart by start and end in labels.csv",
            file=sys.stderr,
        )
    return EXIT_OK


def replay_verb(config: ReplayConfig) -> int:
    from netdiff_ray.export.replay import replay
    from netdiff_ray.storage.store import public_uri

    done = replay(config)
    print(
        f"{public_uri(config.source)} on {config.interface}: {done.num_packets:,} packets, "
        f"{done.num_bytes:,} bytes in {done.seconds:.1f} s"
    )
    for note in done.notes:
        print(f"netdiff: {note}", file=sys.stderr)
    return EXIT_PARTIAL if done.notes else EXIT_OK


def show_verb(config: ShowConfig) -> int:
    from netdiff_ray.export.show import show

    print(show(config))
    if config.picture is not None:
        print(f"\n{config.picture}: raster and control image")
    return EXIT_OK
