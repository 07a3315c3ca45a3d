"""Find model files: a local directory as it is, or a hub repository at a pinned commit."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import netdiff_ray
from netdiff_ray.config.diffusion import EMBEDDED_BASE, is_commit
from netdiff_ray.diffusion.weight_files import weights_in
from netdiff_ray.errors import ConfigError, ModelError

_VARIANTS = ["*.fp16*", "*.bf16*", "*.fp8*", "*.bin", "*.msgpack", "*.onnx"]


def directory_of(
    source: str,
    revision: str | None,
    folders: Iterable[str],
    *,
    files: Iterable[str] = (),
    variant: str | None = None,
) -> Path:
    """Return the local directory that holds `source`.

    Args:
        source: EMBEDDED_BASE, a directory, or a hub name, whose files are downloaded unless the
            hub cache has them.
        revision: the commit of a hub name, 40 hex digits.
        folders: of a hub repository to download.
        files: patterns of top-level files of a hub repository to download.
        variant: of weights to download beside the plain ones, such as fp16.

    Raises:
        ConfigError: the revision of a hub name is not pinned.
        ModelError: the directory or repository does not exist, it is gated, or the hub cannot be
            reached; says what to do.
    """
    if source == EMBEDDED_BASE:
        return embedded_base()
    if Path(source).is_dir():
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ModelError(
            f"{source}: no such directory; give a diffusers model directory or a hub name "
            "such as stabilityai/stable-diffusion-3-medium-diffusers"
        )
    if not is_commit(revision):
        raise ConfigError(
            f"{source} at revision {revision!r} can change at any time; give the commit, 40 hex "
            f"digits, as its revision (see https://huggingface.co/{source}/commits/main)"
        )
    patterns = [*(f"{folder}/*" for folder in folders), *files]
    left_out = [pattern for pattern in _VARIANTS if pattern != f"*.{variant}*"]
    return _downloaded(source, revision, patterns, left_out)


def _downloaded(source: str, revision: str, patterns: list[str], left_out: list[str]) -> Path:
    """Return the directory in the hub cache that holds the matching files of a repository."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        directory = snapshot_download(
            source, revision=revision, allow_patterns=patterns, ignore_patterns=left_out
        )
    except GatedRepoError:
        raise ModelError(
            f"{source} is gated: accept its licence at https://huggingface.co/{source}, then "
            "log in with `hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"{source} has no commit {revision}; see https://huggingface.co/{source}/commits/main"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(
            f"{source}: neither a directory here nor a repository on the hub that you may "
            "read; check the spelling, or log in with `hf auth login`"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{source} is not in the hub cache and the hub cannot be reached "
            f"({type(error).__name__}); download it where there is a network with `hf download "
            f"{source} --revision {revision}` and copy the directory here, then give its path"
        ) from None
    return Path(directory)


def embedded_base() -> Path:
    """Return the directory of the base that the package ships.

    Raises:
        ModelError: this installation lacks the base.
    """
    directory = Path(netdiff_ray.__file__).parent / EMBEDDED_BASE
    if not (directory / "model_index.json").is_file():
        raise ModelError(
            f"{directory} has no model_index.json: this installation lacks the base "
            f"{EMBEDDED_BASE}; install the package again, or name another base"
        )
    return directory


def require_folder(directory: Path, folder: str, source: str) -> Path:
    """Return `directory / folder`, the folder of a component.

    Raises:
        ModelError: it holds no config.json.
    """
    path = directory / folder
    if not (path / "config.json").is_file():
        present = sorted(p.parent.name for p in directory.glob("*/config.json"))
        raise ModelError(
            f"{source} has no {folder}/config.json; an SD3-family directory of diffusers has it "
            f"beside model_index.json (components of this one: {', '.join(present) or 'none'})"
        )
    return path


def digest_of(
    directory: Path,
    folders: Iterable[str],
    variant: str | None = None,
    single: Mapping[str, Path] | None = None,
) -> str:
    """Return the hex sha256 of the weight files that are loaded and of configs, which identifies a
    base.

    Args:
        directory: of the base.
        folders: of the components that count.
        variant: see `weight_files.variant_of`.
        single: files that are loaded instead of a folder's weights, by folder.
    """
    single = single or {}
    digest = hashlib.sha256()
    for folder in folders:
        path = directory / folder
        weights = [single[folder]] if folder in single else weights_in(path, variant)
        configs = [path / name for name in ("config.json", "scheduler_config.json")]
        for file in sorted([*weights, *filter(Path.is_file, configs)], key=lambda file: file.name):
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{folder}/{file.name} {content}\n".encode())
    return digest.hexdigest()
