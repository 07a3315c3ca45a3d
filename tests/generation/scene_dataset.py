"""A scene of a quarter of an hour whose flows are random bits, repaired."""

import numpy as np
from scenes.scene_builders import metadata, scene

from netdiff_ray.config.content import content_of
from netdiff_ray.generation.shard_builder import build_planned_shard
from netdiff_ray.generation.shard_plan import ShardSettings, plan_scene_shards, windows_to_draw
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.scenes.planner import ScenePlanner
from netdiff_ray.scenes.scene import Incident
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import index_name, write_shard

FLOOD = Incident(name="flood", label="web", begin_minute=4, minutes=1, flows_per_second=0.5)
SCENE = scene(minutes=8.0, incidents=(FLOOD,))
SETTINGS = ShardSettings(
    seed=5, payload="dialogue", order="interleaved", flows_per_second=1.0, scene=SCENE
)


def planned_shards(flows_per_shard=20):
    return plan_scene_shards(ScenePlanner(metadata(), SCENE, 5).counts(), flows_per_shard)


def drawn(plan):
    """Return random bits for the windows of a shard, of as many packets as planned."""
    random = np.random.default_rng(plan.number)
    parts = []
    for flow in windows_to_draw(metadata(), plan, 5, SCENE):
        for sample in flow:
            window = np.full((sample.height, layout_named("stateful").width), -1, np.int8)
            window[: sample.length] = random.integers(0, 2, (sample.length, window.shape[1]))
            parts.append(window)
    return np.concatenate(parts)


def built_shards():
    plans = planned_shards()
    return [build_planned_shard(metadata(), plan, drawn(plan), SETTINGS) for plan in plans]


def write_dataset(store, shards):
    """Write shards as the dataset of a scene, and return it."""
    config = {"job": "generate", "scene": content_of(SCENE)}
    for shard in shards:
        write_shard(store, shard, config)
    return commit(store, PCAP_DATASET, config, [index_name(shard.number) for shard in shards])
