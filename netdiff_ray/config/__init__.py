"""Configurations of the jobs: frozen, keyword-only dataclasses, a module a job.

Each checks itself when made. The command line is made from them.
"""

from netdiff_ray.config.augment import AugmentConfig
from netdiff_ray.config.check import CheckConfig
from netdiff_ray.config.check_base import CheckBaseConfig
from netdiff_ray.config.convert import ConvertConfig
from netdiff_ray.config.datasets import InfoConfig, VerifyConfig
from netdiff_ray.config.encode import EncodeConfig
from netdiff_ray.config.evaluate import EvaluateConfig
from netdiff_ray.config.export import ExportConfig
from netdiff_ray.config.generate import GenerateConfig
from netdiff_ray.config.inspect import InspectConfig
from netdiff_ray.config.labels import LabelsConfig, LabelSettings
from netdiff_ray.config.pipeline import PipelineConfig
from netdiff_ray.config.repair import RepairConfig
from netdiff_ray.config.replay import ReplayConfig
from netdiff_ray.config.scene import SceneConfig
from netdiff_ray.config.serve import ServeConfig
from netdiff_ray.config.show import ShowConfig
from netdiff_ray.config.submit import SubmitConfig
from netdiff_ray.config.train import TrainConfig

__all__ = [
    "AugmentConfig",
    "CheckBaseConfig",
    "CheckConfig",
    "ConvertConfig",
    "EncodeConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GenerateConfig",
    "InfoConfig",
    "InspectConfig",
    "LabelSettings",
    "LabelsConfig",
    "PipelineConfig",
    "RepairConfig",
    "ReplayConfig",
    "SceneConfig",
    "ServeConfig",
    "ShowConfig",
    "SubmitConfig",
    "TrainConfig",
    "VerifyConfig",
]
