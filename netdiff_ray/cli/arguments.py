"""A command line to the configuration of its verb, and the pages of help."""

import dataclasses
import functools
import operator
import re
from typing import Annotated, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from netdiff_ray.config import (
    AugmentConfig,
    CheckBaseConfig,
    CheckConfig,
    ConvertConfig,
    EncodeConfig,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    InfoConfig,
    InspectConfig,
    LabelsConfig,
    PipelineConfig,
    RepairConfig,
    ReplayConfig,
    SceneConfig,
    ServeConfig,
    ShowConfig,
    SubmitConfig,
    TrainConfig,
    VerifyConfig,
)

VERBS = {
    "pipeline": PipelineConfig,
    "encode": EncodeConfig,
    "train": TrainConfig,
    "generate": GenerateConfig,
    "scene": SceneConfig,
    "evaluate": EvaluateConfig,
    "augment": AugmentConfig,
    "submit": SubmitConfig,
    "serve": ServeConfig,
    "info": InfoConfig,
    "verify": VerifyConfig,
    "export": ExportConfig,
    "replay": ReplayConfig,
    "show": ShowConfig,
    "check": CheckConfig,
    "check-base": CheckBaseConfig,
    "inspect": InspectConfig,
    "labels": LabelsConfig,
    "convert": ConvertConfig,
    "repair": RepairConfig,
}


_DESCRIPTION = """Synthetic, labelled, protocol-valid network traffic from diffusion models, on Ray.

netdiff VERB --help lists the options of a verb."""
_MARKERS = (tyro.conf.DisallowNone,)  # a flag that is not given means None
_HELP = ConstructorRegistry()


@_HELP.struct_rule
def _described(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Describe the fields of a configuration, with their docstrings as help; a default of None or
    of no values is not shown, since the docstring says what stands for it."""
    if not info.type.__module__.startswith("netdiff_ray."):  # such as what holds the verbs
        return None
    docstrings = {
        field.arg_name: re.sub(r"\s+", " ", field.description or "").replace("`", "")
        for field in docstring_parser.parse_from_object(info.type).params
    }
    hints = get_type_hints(info.type, include_extras=True)
    fields = []
    for field in dataclasses.fields(info.type):
        hint, default = hints[field.name], _default_of(field, info)
        if default in (None, ()):
            hint = Annotated[hint, tyro.conf.arg(help_behavior_hint="")]
        fields.append(
            StructFieldSpec(
                name=field.name, type=hint, default=default, helptext=docstrings.get(field.name)
            )
        )  # fmt: skip
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _default_of(field: dataclasses.Field, info: StructTypeInfo) -> object:
    """Return what a field is unless given: as in the default of its record, or by itself."""
    if isinstance(info.default, info.type):
        return getattr(info.default, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def parsed(arguments: list[str]) -> object:
    """Return the configuration that a command line means."""
    verb, *rest = arguments or [""]
    if verb in VERBS:
        rest = _submit_flags_first(rest) if verb == "submit" else rest
        with _HELP:
            return tyro.cli(VERBS[verb], prog=f"netdiff {verb}", args=rest, config=_MARKERS)
    first_lines = {
        name: tyro.conf.subcommand(name, description=(config.__doc__ or "").split("\n\n")[0])
        for name, config in VERBS.items()
    }
    verbs = [Annotated[config, first_lines[name]] for name, config in VERBS.items()]
    every = functools.reduce(operator.or_, verbs)
    with _HELP:
        return tyro.cli(
            every, prog="netdiff", args=arguments, description=_DESCRIPTION, config=_MARKERS
        )


def _submit_flags_first(arguments: list[str]) -> list[str]:
    """Return the flags of `submit`, wherever they stand, then `--`, then the verb and its
    flags."""
    flags, others = [], []
    rest = iter(arguments)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name in ("--address", "--working-dir"):
            flags += [word] if equals else [word, *[next(rest, "")]]
        elif word in ("-h", "--help") and not others:
            flags.append(word)
        else:
            others.append(word)
    return [*flags, "--", *others] if others else flags
