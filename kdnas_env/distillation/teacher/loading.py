"""Load teachers: frozen transformers encoders, by hub name or from a folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.distillation.checkpoint import load_encoder, read_architecture, read_config
from kdnas_env.distillation.teacher.foreign import (
    check_states,
    forward_settings,
    padding_token,
    usable_positions,
)
from kdnas_env.distillation.text.demo import demo_teacher_directory
from kdnas_env.errors import TeacherError, one_line
from kdnas_env.support.atomic import expanded
from kdnas_env.support.quiet import quiet_transformers

_CONFIG_FILES = ("config.json",)
_MODEL_FILES = ("model*.safetensors", "model.safetensors.index.json")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_TOKENIZER_EXTRAS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ALL_FILES = (*_CONFIG_FILES, *_MODEL_FILES, *_TOKENIZER_FILES, *_TOKENIZER_EXTRAS)
"""Files of a teacher."""

_FORWARD_FIELDS = ("position_embedding_type", "num_hidden_groups", "inner_group_num", "sinusoidal_pos_embds")
"""Configuration fields that change the hidden states but are not part of ``EncoderArchitecture``."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen encoder with its tokenizer.

    Attributes:
        model: Encoder without head: float32, ``eval()``, no parameter requires a gradient.
        tokenizer: The fast tokenizer. Its ``model_max_length`` is the smaller limit of tokenizer and model. It returns
            ``token_type_ids`` if and only if the model has more than one segment. It has a padding token.
        architecture: Shape of the model.
        name: The name given to ``load_teacher``.
        fingerprint: SHA-256 (hex) of architecture and weights, the same wherever the teacher is loaded from.
        device: Where the model is.
        left_out: Names of the checkpoint's weights that are not part of the encoder: pooler and heads.
        notes: Sentences that name the defaults chosen for settings that the checkpoint lacks.
    """

    model: torch.nn.Module
    tokenizer: Any
    architecture: EncoderArchitecture
    name: str
    fingerprint: str
    device: torch.device
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @torch.no_grad()
    def hidden_states(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Run the encoder.

        Args:
            input_ids: Token ids, int64 ``(batch, length)``.
            attention_mask: 1 on real tokens, 0 on padding, ``(batch, length)``; None if there is no padding.
            token_type_ids: Segments, int64 ``(batch, length)``; ignored by teachers with fewer than two.

        Returns:
            ``num_hidden_layers + 1`` float32 tensors ``(batch, length, hidden_size)`` on the teacher's device: the
            embeddings, then the output of each layer. Rows of padding are undefined.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids.to(self.device)}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.to(self.device)
        if token_type_ids is not None and self.architecture.type_vocab_size > 1:
            inputs["token_type_ids"] = token_type_ids.to(self.device)
        output = self.model(**inputs, output_hidden_states=True)
        # transformers returns no hidden states for an encoder without layers.
        states: tuple[torch.Tensor, ...] = output.hidden_states or (output.last_hidden_state,)
        return states


def load_teacher(name: str | os.PathLike[str], *, device: str | torch.device = "cpu", role: str = "teacher") -> Teacher:
    """Load a transformers encoder as a teacher.

    Supports every type whose hidden states are one per layer and do not depend on padding: models that ``AutoModel``
    loads, and the encoder of an encoder-decoder. A decoder provides its causal states. Checkpoints of any head class
    load; the head is dropped. Only safetensors files are read, and no code of the checkpoint is run.

    Args:
        name: ``"demo"`` (all-MiniLM-L6-v2 of the extra ``demo``), a folder in hub layout, or a hub name.
        device: Device of the model.
        role: The model's role in messages; this function also loads encoders that are not teachers.

    Raises:
        TeacherError: If the teacher cannot be found or read, has an unsuitable type, lacks weights, has encoder weights
            that would stay unused, or does not fit its tokenizer; or if the device does not exist.
        DependencyError: If the name is ``"demo"`` and the extra is not installed.
    """
    name = os.fspath(name)
    target = _check_device(device)
    folder = locate(name, role=role)
    what = f"{role} {name!r}"
    config = _read_config(what, folder)
    architecture = _architecture(name, config)
    # A teacher saved with these options would compute extra outputs in every forward pass.
    config.output_hidden_states = config.output_attentions = False
    if not architecture.plain:
        config.use_cache = False
    _check_files(what, name, folder)
    model, left_out = load_encoder(what, folder, config, architecture)
    tokenizer, notes = _load_tokenizer(what, folder, architecture)
    if not architecture.plain:
        longest = min(architecture.max_length, usable_positions(model))
        architecture = replace(architecture, pad_token_id=tokenizer.pad_token_id, max_length=longest)
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    model.requires_grad_(False)
    model.to(target)
    fingerprint = _fingerprint(model, architecture, config)
    teacher = Teacher(model, tokenizer, architecture, name, fingerprint, target, left_out, notes)
    if not architecture.plain:
        check_states(what, model, architecture, teacher.hidden_states)
        return teacher
    try:
        count = len(teacher.hidden_states(torch.zeros(1, 2, dtype=torch.int64)))
    except Exception as error:  # an unusual configuration may make the model raise any error
        raise TeacherError(f"{what} cannot be run: {one_line(error)}") from error
    if count != architecture.num_hidden_layers + 1:
        raise TeacherError(
            f"{what} has {architecture.num_hidden_layers} layers but {count} hidden states instead of "
            f"{architecture.num_hidden_layers + 1}; ALBERT with inner_group_num above 1 is not supported"
        )
    return teacher


def load_teacher_architecture(name: str | os.PathLike[str]) -> EncoderArchitecture:
    """Read a teacher's architecture from its configuration, without fetching or reading weights.

    Raises:
        TeacherError: If the configuration cannot be found or read, or does not describe a supported encoder.
        DependencyError: If the name is ``"demo"`` and the extra is not installed.
    """
    name = os.fspath(name)
    return _architecture(name, _read_config(f"teacher {name!r}", locate(name, _CONFIG_FILES)))


def _check_device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(f"device {str(device)!r} cannot be used: {one_line(error)}; try 'cpu'") from error
    return target


def locate(name: str, patterns: Sequence[str] = ALL_FILES, *, role: str = "teacher") -> Path:
    """Return the folder of a teacher, fetched from the hub if needed.

    Args:
        name: See :func:`load_teacher`.
        patterns: Files to fetch.
        role: See :func:`load_teacher`.

    Raises:
        TeacherError: If the teacher does not exist, or the hub cannot be reached.
        DependencyError: If the name is ``"demo"`` and the extra is not installed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if name == "demo":
        return demo_teacher_directory()
    path = expanded(name)
    if os.path.isdir(path):  # unlike pathlib, returns False for invalid paths
        return path
    if os.path.isfile(path):
        raise TeacherError(f"{role} {name!r} is a file; name a folder with config.json and model.safetensors")
    if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2:
        raise TeacherError(f"unknown {role} {name!r}: there is no such folder")
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=["*/*"]))
    except HFValidationError as error:
        raise TeacherError(f"unknown {role} {name!r}: no such folder, and not a hub name: {error}") from error
    except RepositoryNotFoundError as error:
        raise TeacherError(
            f"unknown {role} {name!r}: there is no such folder, and the hub has no model of that name that you may read"
        ) from error
    except Exception as error:
        raise TeacherError(
            f"unknown {role} {name!r}: there is no such folder, the hub cannot be reached ({one_line(error)}) and "
            "no copy of a model of that name is cached; name a local folder, or 'demo'"
        ) from error


def _read_config(what: str, folder: Path) -> Any:
    if not os.path.isfile(folder / "config.json"):
        raise TeacherError(f"{what}: folder {folder} has no config.json")
    return read_config(what, folder)


def _architecture(name: str, config: Any) -> EncoderArchitecture:
    try:
        return read_architecture(config)
    except TeacherError as error:
        raise TeacherError(f"{name!r} cannot teach: {error}") from error


def _check_files(what: str, name: str, folder: Path) -> None:
    if not any(folder.glob("model*.safetensors")):
        raise TeacherError(
            f"{what} has no safetensors weights (model.safetensors) in {folder}; convert it once with "
            f"AutoModel.from_pretrained({name!r}).save_pretrained(NEW_FOLDER), save its tokenizer there too, and name "
            "that folder"
        )
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise TeacherError(f"{what} has no tokenizer in {folder}; save it there with tokenizer.save_pretrained(...)")


def _load_tokenizer(what: str, folder: Path, architecture: EncoderArchitecture) -> tuple[Any, tuple[str, ...]]:
    """Return the tokenizer, and notes on the defaults chosen for it."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        largest = max(tokenizer.get_vocab().values())
        longest = min(int(tokenizer.model_max_length), architecture.max_length)
    except Exception as error:
        raise TeacherError(f"the tokenizer of {what} cannot be read: {one_line(error)}") from error
    if not tokenizer.is_fast:
        raise TeacherError(f"{what} has no fast tokenizer (tokenizer.json), which kdnas needs")
    if largest >= architecture.vocab_size:
        raise TeacherError(
            f"the tokenizer of {what} produces ids up to {largest}, but the model has only "
            f"{architecture.vocab_size} embeddings; tokenizer and weights belong to different models"
        )
    tokenizer.model_max_length = longest
    # Encoders do not use chat templates, and a checkpoint chooses the file names of its templates.
    tokenizer.chat_template = None
    # The model decides: ALBERT embeds segments that its tokenizer does not return; RoBERTa has only one segment.
    segments = ["token_type_ids"] if architecture.type_vocab_size > 1 else []
    tokenizer.model_input_names = ["input_ids", *segments, "attention_mask"]
    if architecture.plain:
        return tokenizer, ()
    # Students count positions from the left.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is not None:
        return tokenizer, ()
    tokenizer.pad_token = padding_token(tokenizer, architecture.pad_token_id)
    return tokenizer, (f"the tokenizer of {what} has no padding token; {tokenizer.pad_token!r} is used instead",)


def _fingerprint(model: torch.nn.Module, architecture: EncoderArchitecture, config: Any) -> str:
    values = config.to_dict()
    settings = {key: values[key] for key in _FORWARD_FIELDS if key in values}
    shape = asdict(architecture) | (settings if architecture.plain else forward_settings(config))
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for key, tensor in sorted(model.state_dict().items()):
        # Some types always have a pooler, with random weights if the checkpoint has none.
        if key.startswith("pooler."):
            continue
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{key}{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()
