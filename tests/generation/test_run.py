"""What a run is, resolved from its configuration and its adapter."""

import pytest

from netdiff_ray.config import GenerateConfig
from netdiff_ray.config.pins import PlanPins
from netdiff_ray.diffusion.adapter import METADATA_FILE, adapter_digest, parse_metadata
from netdiff_ray.errors import ConfigError
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.generation.run import resolve_run
from netdiff_ray.generation.shard_plan import windows_to_draw
from netdiff_ray.storage.store import open_store


def resolved(adapter_directory, tmp_path, **settings):
    adapter = open_store(adapter_directory)
    config = GenerateConfig(adapter=str(adapter_directory), target=str(tmp_path), **settings)
    return resolve_run(config, open_store(tmp_path), adapter, read_adapter_files(adapter))


def test_who_draws_and_who_repairs_know_what_is_pinned(adapter_directory, tmp_path):
    files = read_adapter_files(open_store(adapter_directory))
    shortest = {
        label: statistics.fewest_packets
        for label, statistics in parse_metadata(files[METADATA_FILE], "toy").labels.items()
    }
    most = max(shortest.values())
    run = resolved(adapter_directory, tmp_path, flows=9, pins=PlanPins(max_packets=most))
    assert parse_metadata(run.adapter_files[METADATA_FILE], "toy") == run.metadata
    flows = [flow for plan in run.plans for flow in windows_to_draw(run.metadata, plan, 0)]
    assert len(flows) == 9 * len(shortest)
    assert all(sum(sample.length for sample in flow) <= most for flow in flows)
    plain = resolved(adapter_directory, tmp_path, flows=9)
    assert plain.identity != run.identity
    assert plain.origin == run.origin
    assert run.origin["models"]["adapter"]["sha256"] == adapter_digest(files)


def test_what_no_flow_is_ends_a_run_before_it_begins(adapter_directory, tmp_path):
    with pytest.raises(ConfigError, match=r"no flow of label .* is as pinned"):
        resolved(adapter_directory, tmp_path, pins=PlanPins(service="tcp-1"))
