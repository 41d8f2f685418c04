"""Load transformers encoders from folders; every encoder weight must be present and used."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdnas_env.core.architecture import EncoderArchitecture, count_parameters
from kdnas_env.core.shapes import customary_values
from kdnas_env.errors import TeacherError, one_line
from kdnas_env.support.quiet import quiet_transformers

_MOST_LAYERS = 1000
POOLER = "pooler."
"""Prefix of the names of a pooler's weights."""

_FETCH_AGAIN = "if the file is truncated or a Git LFS pointer, download it again"


def read_config(what: str, folder: Path) -> Any:
    """Read a model's configuration without running any code from its folder.

    Args:
        what: Description of the model for messages, such as ``teacher 'demo'``.
        folder: The model's folder.

    Raises:
        TeacherError: If the configuration cannot be read.
    """
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise TeacherError(f"the configuration of {what} cannot be read: {one_line(error)}") from error


def read_architecture(config: Any) -> EncoderArchitecture:
    """Derive the architecture from a configuration; the error for other models names the kind of model.

    Raises:
        TeacherError: See :meth:`kdnas_env.core.architecture.EncoderArchitecture.from_pretrained_config`.
    """
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False) and not _is_part(kind):
        raise TeacherError(
            f"a model of type {kind!r} is encoder and decoder, and transformers has no class for its encoder alone; "
            "choose an encoder, or a decoder"
        )
    if kind not in MODEL_MAPPING_NAMES or "vocab_size" not in customary_values(config):
        raise TeacherError(f"transformers has no text encoder of type {kind!r}; choose a model that reads token ids")
    return EncoderArchitecture.from_pretrained_config(config)


def load_encoder(
    what: str, folder: Path, config: Any, architecture: EncoderArchitecture
) -> tuple[Any, tuple[str, ...]]:
    """Load the encoder of a checkpoint, from safetensors only and without running its code.

    For an encoder-decoder, load its encoder. An embedding table that is tied to the decoder may be stored under the
    decoder's name; it is found there.

    Args:
        what: Description of the model for messages, such as ``teacher 'demo'``.
        folder: The model's folder.
        config: The model's configuration.
        architecture: The architecture derived from ``config``.

    Returns:
        The encoder (float32, on the CPU, in eval mode, without pooler where its type allows that), and the sorted
        names of the checkpoint's other weights (pooler and heads).

    Raises:
        TeacherError: If the weights cannot be read or do not match the configuration, or if encoder weights are
            missing or would stay unused.
    """
    if _is_part(config.model_type):
        config = copy.deepcopy(config)
        config.is_encoder_decoder = False
    _check_size(what, folder, config, architecture)
    options = _load_options(config, architecture)
    model, loading = _load(what, folder, config, **options)
    tied = _tied_names(config)
    if any(encoder.endswith(name) for name in loading["missing_keys"] for encoder in tied.values()):
        names = {f"^{re.escape(decoder)}$": encoder for decoder, encoder in tied.items()}
        model, loading = _load(what, folder, config, key_mapping=names, **options)
    mismatched = sorted(loading["mismatched_keys"])
    if mismatched:
        name, stored, expected = mismatched[0]
        raise TeacherError(
            f"the weights of {what} in {folder} do not fit its config.json: {name} is {tuple(stored)} and should be "
            f"{tuple(expected)}{_and_others(mismatched)}; configuration and weights belong to different models"
        )
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith(POOLER))
    if missing:
        raise TeacherError(
            f"{what} lacks {len(missing)} of its encoder's weights, such as {missing[0]!r}; is it a checkpoint of a "
            f"{architecture.family!r} model?"
        )
    # Some versions of transformers store buffers with the weights; they are recomputed here.
    buffers = {name for name, _ in model.named_buffers()}
    unused = sorted(name for name in loading["unexpected_keys"] if _inner(name, model) not in buffers)
    own = [name for name in unused if _is_of_encoder(name, model)]
    if own:
        raise TeacherError(
            f"the encoder of {what} has weights that a model of type {architecture.family!r} does not use: "
            f"{own[0]}{_and_others(own)}; without them it would be another model, so it is not loaded"
        )
    return model.eval(), tuple(unused)


def takes_pooling_layer(model_type: str) -> bool:
    """Return whether the encoder class of a model type has the option ``add_pooling_layer``."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    model = MODEL_MAPPING[CONFIG_MAPPING[model_type]]
    return inspect.isclass(model) and "add_pooling_layer" in inspect.signature(model).parameters


def _is_part(model_type: str) -> bool:
    """Return whether models of a type contain a text encoder that has its own class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, MODEL_MAPPING_NAMES

    whole = MODEL_MAPPING_NAMES.get(model_type)
    return bool(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(model_type, whole) != whole)


def _encoder_class(model_type: str) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if _is_part(model_type) else AutoModel


def _load_options(config: Any, architecture: EncoderArchitecture) -> dict[str, Any]:
    """Return the options to build an encoder with: no pooler, and the attention that all plain types support."""
    options: dict[str, Any] = {"attn_implementation": "sdpa"} if architecture.plain else {}
    if not _is_part(config.model_type) and takes_pooling_layer(config.model_type):
        options["add_pooling_layer"] = False
    return options


def _load(what: str, folder: Path, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    try:
        with quiet_transformers():
            loaded: tuple[Any, dict[str, Any]] = _encoder_class(config.model_type).from_pretrained(
                str(folder),
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the error can name the weights
                **options,
            )
    except Exception as error:
        raise TeacherError(
            f"the weights of {what} cannot be read from {folder}: {one_line(error)}; {_FETCH_AGAIN}"
        ) from error
    return loaded


def _check_size(what: str, folder: Path, config: Any, architecture: EncoderArchitecture) -> None:
    """Raise if the files are too small for the configured model, before memory for that model is allocated."""
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    layers = architecture.num_hidden_layers
    parameters = _described_parameters(what, config, architecture)
    if parameters > size or layers > _MOST_LAYERS:
        raise TeacherError(
            f"the weights of {what} cannot be read from {folder}: they have {size:,} bytes, but config.json describes "
            f"{parameters:,} parameters in {layers:,} layers; {_FETCH_AGAIN}"
        )


def _described_parameters(what: str, config: Any, architecture: EncoderArchitecture) -> int:
    """Count the parameters of the configured model, without building the model where possible."""
    if architecture.plain or architecture.num_hidden_layers > _MOST_LAYERS:
        shape = architecture.as_student()
        if shape.family == "bert" and architecture.embedding_size < architecture.hidden_size:  # ELECTRA
            shape = replace(shape, embedding_size=architecture.embedding_size)
        return count_parameters(shape, architecture)
    try:
        with quiet_transformers(), torch.device("meta"):
            model = _encoder_class(config.model_type).from_config(copy.deepcopy(config))
    except Exception as error:
        raise TeacherError(f"{what} cannot be built from its config.json: {one_line(error)}") from error
    return sum(parameter.numel() for parameter in model.parameters())


def _tied_names(config: Any) -> dict[str, str]:
    """Return the weights that models with a head tie to their encoder: head name to encoder name."""
    return {
        decoder: encoder
        for model in _models_with_head(type(config))
        for decoder, encoder in (getattr(model, "_tied_weights_keys", None) or {}).items()
        if encoder.endswith(".weight")
    }


def _models_with_head(config_class: type) -> Iterator[Any]:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    for mapping in (MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if config_class in mapping:
            yield mapping[config_class]


def _inner(name: str, model: Any) -> str:
    """Return the name of a weight within the encoder, whether or not the encoder has it."""
    return name.removeprefix(f"{model.base_model_prefix}.")


def _is_of_encoder(name: str, model: Any) -> bool:
    """Return whether an unused weight belongs to the encoder itself, rather than to a pooler or a head."""
    inner = _inner(name, model)
    part = inner.partition(".")[0]
    return part != "pooler" and (inner != name or part in dict(model.named_children()))


def _and_others(names: list[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
