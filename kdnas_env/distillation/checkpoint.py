"""Encoders of transformers in folders: read whole, and nothing of them ignored but what is no part of an encoder."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kdnas_env.core.architecture import EncoderArchitecture, count_parameters
from kdnas_env.core.shapes import customary_values
from kdnas_env.errors import TeacherError
from kdnas_env.support.libraries import one_line, quiet_transformers

_MOST_LAYERS = 1000
_POOLER = "pooler."

_FETCH_AGAIN = "if the file is cut short or a Git LFS pointer, fetch it again"


def read_config(what: str, folder: Path) -> Any:
    """Read the configuration of a model, running no code of it.

    Args:
        what: The model in words, for messages, such as ``teacher 'demo'``.
        folder: Its folder.

    Raises:
        TeacherError: If it cannot be read.
    """
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise TeacherError(f"the configuration of {what} cannot be read: {one_line(error)}") from error


def read_architecture(config: Any) -> EncoderArchitecture:
    """Read the architecture off a configuration, and say what a model is that is no encoder of text.

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
        raise TeacherError(
            f"a model of type {kind!r} is no encoder of text that transformers has; choose a model that reads token ids"
        )
    return EncoderArchitecture.from_pretrained_config(config)


def load_encoder(
    what: str, folder: Path, config: Any, architecture: EncoderArchitecture
) -> tuple[Any, tuple[str, ...]]:
    """Load the encoder of a checkpoint: from safetensors only, running no code of it.

    Of an encoder-decoder it is the encoder. An embedding table that is stored under the name of the decoder that it is
    tied to is found there.

    Args:
        what: The model in words, for messages, such as ``teacher 'demo'``.
        folder: Its folder.
        config: Its configuration.
        architecture: The same, as read.

    Returns:
        The encoder, float32, on the CPU, in eval mode, without pooler where its type allows that; and the names of the
        weights that are no part of it, sorted: those of a pooler and of heads.

    Raises:
        TeacherError: If the weights cannot be read, are not those that the configuration describes, or some of the
            encoder are lacking or would not be used.
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
    misfits = sorted(loading["mismatched_keys"])
    if misfits:
        name, stored, expected = misfits[0]
        raise TeacherError(
            f"the weights of {what} in {folder} do not fit its config.json: {name} is {tuple(stored)} and should be "
            f"{tuple(expected)}{_and_others(misfits)}; configuration and weights are not of one model"
        )
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith(_POOLER))
    if missing:
        raise TeacherError(
            f"{what} lacks {len(missing)} of its encoder's weights, such as {missing[0]!r}; is it a checkpoint of a "
            f"{architecture.family!r} model?"
        )
    # Buffers that some versions of transformers keep with the weights are made anew.
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
    """Whether encoders of a type are made with or without pooler, as ``add_pooling_layer`` says."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    model = MODEL_MAPPING[CONFIG_MAPPING[model_type]]
    return inspect.isclass(model) and "add_pooling_layer" in inspect.signature(model).parameters


def _is_part(model_type: str) -> bool:
    """Whether the encoder of text is a part of the models of a type, and has a class of its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, MODEL_MAPPING_NAMES

    whole = MODEL_MAPPING_NAMES.get(model_type)
    return bool(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(model_type, whole) != whole)


def _encoder_class(model_type: str) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding

    return AutoModelForTextEncoding if _is_part(model_type) else AutoModel


def _load_options(config: Any, architecture: EncoderArchitecture) -> dict[str, Any]:
    """Return what an encoder is made with: no pooler, and the attention that all plain types have."""
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
                ignore_mismatched_sizes=True,  # so that they are told by name
                **options,
            )
    except Exception as error:
        raise TeacherError(
            f"the weights of {what} cannot be read from {folder}: {one_line(error)}; {_FETCH_AGAIN}"
        ) from error
    return loaded


def _check_size(what: str, folder: Path, config: Any, architecture: EncoderArchitecture) -> None:
    """Refuse weights that are too few for a configuration, before any memory is taken by what it describes."""
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    layers = architecture.num_hidden_layers
    parameters = _described_parameters(what, config, architecture)
    if parameters > size or layers > _MOST_LAYERS:
        raise TeacherError(
            f"the weights of {what} cannot be read from {folder}: they hold {size:,} bytes, and config.json describes "
            f"{parameters:,} parameters in {layers:,} layers; {_FETCH_AGAIN}"
        )


def _described_parameters(what: str, config: Any, architecture: EncoderArchitecture) -> int:
    """Count the parameters that a configuration describes; where that takes no making of it, without."""
    if architecture.plain or architecture.num_hidden_layers > _MOST_LAYERS:
        return count_parameters(architecture.as_student(), architecture)
    try:
        with quiet_transformers(), torch.device("meta"):
            model = _encoder_class(config.model_type).from_config(copy.deepcopy(config))
    except Exception as error:
        raise TeacherError(f"{what} cannot be made of its config.json: {one_line(error)}") from error
    return sum(parameter.numel() for parameter in model.parameters())


def _tied_names(config: Any) -> dict[str, str]:
    """Return the names of weights that models with a head share with their encoder: the head's, and the encoder's."""
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
    """Return the name that a weight has, or would have, within the encoder."""
    return name.removeprefix(f"{model.base_model_prefix}.")


def _is_of_encoder(name: str, model: Any) -> bool:
    """Return whether a weight that is not used is of the encoder itself, not of its pooler or a head beside it."""
    inner = _inner(name, model)
    part = inner.partition(".")[0]
    return part != "pooler" and (inner != name or part in dict(model.named_children()))


def _and_others(found: list[Any]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
