"""Synthetic, labelled, protocol-valid network traffic from diffusion models, on Ray.

What stands in `__all__` is the public Python API; `docs/python.md` shows it. Names are resolved
when they are first used, so that importing the package loads neither Ray nor torch.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from netdiff_ray.errors import (
    CaptureError,
    ClusterError,
    ConfigError,
    DataError,
    DatasetError,
    ModelError,
    NetdiffError,
    NprintError,
    RasterError,
    StorageError,
)

if TYPE_CHECKING:
    from netdiff_ray.augmentation.run import AugmentResult, augment
    from netdiff_ray.config import (
        AugmentConfig,
        EncodeConfig,
        EvaluateConfig,
        GenerateConfig,
        PipelineConfig,
        SceneConfig,
        TrainConfig,
    )
    from netdiff_ray.config.diffusion import (
        BaseSettings,
        DrawSettings,
        EvidenceSettings,
        FlowMatchingSettings,
        Lora,
        OptimizationSettings,
        TrainSettings,
    )
    from netdiff_ray.config.labels import LabelSettings
    from netdiff_ray.config.pins import PlanPins
    from netdiff_ray.datasets import CaptureWindows, NprintDataset, Window, load, read_capture
    from netdiff_ray.distributed.encode import encode
    from netdiff_ray.distributed.evaluate import evaluate
    from netdiff_ray.distributed.generate import generate
    from netdiff_ray.distributed.train import train
    from netdiff_ray.pipeline import PipelineJobs, PipelineResult, run_pipeline
    from netdiff_ray.scene_job import SceneResult, scene

__version__ = "0.1.0"

__all__ = [
    "AugmentConfig",
    "AugmentResult",
    "BaseSettings",
    "CaptureError",
    "CaptureWindows",
    "ClusterError",
    "ConfigError",
    "DataError",
    "DatasetError",
    "DrawSettings",
    "EncodeConfig",
    "EvaluateConfig",
    "EvidenceSettings",
    "FlowMatchingSettings",
    "GenerateConfig",
    "LabelSettings",
    "Lora",
    "ModelError",
    "NetdiffError",
    "NprintDataset",
    "NprintError",
    "OptimizationSettings",
    "PipelineConfig",
    "PipelineJobs",
    "PipelineResult",
    "PlanPins",
    "RasterError",
    "SceneConfig",
    "SceneResult",
    "StorageError",
    "TrainConfig",
    "TrainSettings",
    "Window",
    "__version__",
    "augment",
    "encode",
    "evaluate",
    "generate",
    "load",
    "read_capture",
    "run_pipeline",
    "scene",
    "train",
]

_MODULES = {
    "netdiff_ray.augmentation.run": ("AugmentResult", "augment"),
    "netdiff_ray.config": (
        "AugmentConfig", "EncodeConfig", "EvaluateConfig", "GenerateConfig", "PipelineConfig",
        "SceneConfig", "TrainConfig",
    ),
    "netdiff_ray.config.diffusion": (
        "BaseSettings", "DrawSettings", "EvidenceSettings", "FlowMatchingSettings", "Lora",
        "OptimizationSettings", "TrainSettings",
    ),
    "netdiff_ray.config.labels": ("LabelSettings",),
    "netdiff_ray.config.pins": ("PlanPins",),
    "netdiff_ray.datasets": (
        "CaptureWindows", "NprintDataset", "Window", "load", "read_capture",
    ),
    "netdiff_ray.distributed.encode": ("encode",),
    "netdiff_ray.distributed.evaluate": ("evaluate",),
    "netdiff_ray.distributed.generate": ("generate",),
    "netdiff_ray.distributed.train": ("train",),
    "netdiff_ray.pipeline": ("PipelineJobs", "PipelineResult", "run_pipeline"),
    "netdiff_ray.scene_job": ("SceneResult", "scene"),
}  # fmt: skip
"""The names that are resolved at first use, by the module that defines them."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


class _Package(ModuleType):
    """The package, whose function `evaluate` stays in place when the subpackage of that name is
    imported: the import system binds each submodule as an attribute of its parent."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
