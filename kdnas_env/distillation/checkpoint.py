"""Encoders of transformers in folders: read whole, and nothing of them ignored but what is no part of an encoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from kdnas_env.core.architecture import TEACHER_TYPES, EncoderArchitecture, count_parameters
from kdnas_env.errors import TeacherError
from kdnas_env.support.libraries import one_line, quiet_transformers

_MOST_LAYERS = 1000
POOLED_TYPES = ("bert", "roberta", "xlm-roberta", "albert", "camembert", "data2vec-text", "ernie")
"""Model types whose encoder takes ``add_pooling_layer``; the others have no pooler."""

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
    """Read the architecture off a configuration, and say what a model is that is no encoder of a supported type.

    Raises:
        TeacherError: See :meth:`kdnas_env.core.architecture.EncoderArchitecture.from_pretrained_config`.
    """
    if config.model_type not in TEACHER_TYPES and not config.to_dict().get("is_encoder_decoder"):
        raise TeacherError(
            f"a model of type {config.model_type!r} is {_in_words(config.model_type)}; choose an encoder of type "
            f"{list(TEACHER_TYPES)}"
        )
    return EncoderArchitecture.from_pretrained_config(config)


def load_encoder(
    what: str, folder: Path, config: Any, architecture: EncoderArchitecture
) -> tuple[Any, tuple[str, ...]]:
    """Load the encoder of a checkpoint: from safetensors only, running no code of it.

    An embedding table that is stored under the name of the decoder that it is tied to is found there.

    Args:
        what: The model in words, for messages, such as ``teacher 'demo'``.
        folder: Its folder.
        config: Its configuration.
        architecture: The same, as read.

    Returns:
        The encoder without pooler, float32, on the CPU, in eval mode; and the names of the weights that are no part of
        it, sorted: those of a pooler and of heads.

    Raises:
        TeacherError: If the weights cannot be read, are not those that the configuration describes, or some of the
            encoder are lacking or would not be used.
    """
    _check_size(what, folder, architecture)
    model, loading = _load(what, folder, config)
    if any(name.endswith("word_embeddings.weight") for name in loading["missing_keys"]):
        model, loading = _load(what, folder, config, key_mapping=_tied_names(config))
    misfits = sorted(loading["mismatched_keys"])
    if misfits:
        name, stored, expected = misfits[0]
        raise TeacherError(
            f"the weights of {what} in {folder} do not fit its config.json: {name} is {tuple(stored)} and should be "
            f"{tuple(expected)}{_and_others(misfits)}; configuration and weights are not of one model"
        )
    missing = sorted(loading["missing_keys"])
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


def _load(what: str, folder: Path, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModel

    if config.model_type in POOLED_TYPES:
        options["add_pooling_layer"] = False
    try:
        with quiet_transformers():
            loaded: tuple[Any, dict[str, Any]] = AutoModel.from_pretrained(
                str(folder),
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are told by name
                **options,
            )
    except Exception as error:
        raise TeacherError(
            f"the weights of {what} cannot be read from {folder}: {one_line(error)}; {_FETCH_AGAIN}"
        ) from error
    return loaded


def _check_size(what: str, folder: Path, architecture: EncoderArchitecture) -> None:
    """Refuse weights that are too few for a configuration, before any memory is taken by what it describes."""
    size = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    parameters = count_parameters(architecture.as_student(), architecture)
    layers = architecture.num_hidden_layers
    if parameters > size or layers > _MOST_LAYERS:
        raise TeacherError(
            f"the weights of {what} cannot be read from {folder}: they hold {size:,} bytes, and config.json describes "
            f"{parameters:,} parameters in {layers:,} layers; {_FETCH_AGAIN}"
        )


def _tied_names(config: Any) -> dict[str, str]:
    """Return the decoder's names of the weights that a masked language model shares with its encoder, as patterns."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    tied = MODEL_FOR_MASKED_LM_MAPPING[type(config)]._tied_weights_keys
    return {f"^{re.escape(decoder)}$": encoder for decoder, encoder in tied.items() if encoder.endswith(".weight")}


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


def _in_words(model_type: str) -> str:
    """Say what a model of an unsupported type is, as far as transformers knows."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "an encoder of a type that kdnas does not support"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "a decoder, and kdnas distils encoders"
    return "no encoder of text that kdnas knows"
