"""How sentence vectors are had of an encoder, and what they are: in words and in Python, for model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdnas_env.distillation.checkpoint import POOLED_TYPES
from kdnas_env.distillation.student.folder import PROJECTION

PLACEHOLDER = "path/to/this/folder"

IN_A_FOLDER = f'folder = "{PLACEHOLDER}"'
"""The line of code that names the folder of the model."""

_WEIGHT, _BIAS = "projection.weight", "projection.bias"

_ONNX_CODE = """```python
import onnxruntime
{imports}from transformers import AutoTokenizer

{folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{{folder}}/{graph}", providers=["CPUExecutionProvider"])

sentences = ["A quiet film.", "The audience leaves long before the end."]
inputs = dict(tokenizer(sentences, padding=True, truncation=True, return_tensors="np"))
(states,) = session.run(None, inputs)
mask = inputs["attention_mask"][..., None]
vectors = (states * mask).sum(1) / mask.sum(1)  # (2, {hidden})
{projected}```
"""

_TORCH_CODE = """```python
import torch
{imports}from transformers import AutoModel, AutoTokenizer

{folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder{options})

sentences = ["A quiet film.", "The audience leaves long before the end."]
inputs = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    states = model(**inputs).last_hidden_state
mask = inputs["attention_mask"][..., None]
vectors = (states * mask).sum(1) / mask.sum(1)  # (2, {hidden})
{projected}```
"""

_PROJECTED = f"""
projection = load_file(f"{{{{folder}}}}/{PROJECTION}")
weight, bias = projection["{_WEIGHT}"][-1], projection["{_BIAS}"][-1]
imitation = vectors @ weight[:, -{{width}}:] + bias[-{{width}}:]  # (2, {{width}})
"""


def imitated_width(projection: Mapping[str, Any] | None, mapping: str) -> int | None:
    """Return the width of a teacher's last layer, if a projection maps a student's last layer to it; else None.

    Args:
        projection: State of the objective that the student was trained with, arrays or tensors by name.
        mapping: The recipe's mapping of layers.
    """
    # Of "skip", the last layer learns from a lower one.
    if not projection or _WEIGHT not in projection or mapping == "skip":
        return None
    return int(projection[_WEIGHT].shape[2]) // (2 if mapping == "uniform+last" else 1)


def fits(projection: Mapping[str, Any], hidden: int) -> bool:
    """Return whether the state of an objective is what a student of some width was trained with."""
    if not projection.keys() <= {_WEIGHT, _BIAS}:
        return False
    shapes = [tuple(projection[name].shape) for name in (_WEIGHT, _BIAS) if name in projection]
    match shapes:
        case [(maps, inputs, outputs), (biases, targets)]:
            return bool((maps, inputs, outputs) == (biases, hidden, targets))
    return False


def vectors_in_words(hidden: int, imitated: int | None) -> str:
    """Say what the mean-pooled vectors of a distilled student are.

    Args:
        hidden: Width of the student.
        imitated: See :func:`imitated_width`.
    """
    own = (
        f"`vectors` are the student's hidden states, averaged over the tokens of a sentence: {hidden} wide, in a space "
        "of the student's own. Similarities between them are not those of the teacher."
    )
    if imitated is None:
        return f"{own} No projection to the teacher's last layer is kept."
    return (
        f"{own} The student learnt to imitate through a linear projection (`{PROJECTION}`): `imitation` is what it "
        f"makes of the teacher's vectors, {imitated} wide. The projection was fitted to states of tokens, not to "
        "vectors of sentences."
    )


def torch_code(folder: str, model_type: str, hidden: int, imitated: int | None) -> str:
    """Return code that makes sentence vectors with Transformers.

    Args:
        folder: The lines that set ``folder``.
        model_type: Type of the encoder.
        hidden: Its width.
        imitated: See :func:`imitated_width`.
    """
    # They would make a pooler of random weights.
    options = ", add_pooling_layer=False" if model_type in POOLED_TYPES else ""
    return _TORCH_CODE.format(folder=folder, options=options, hidden=hidden, **_projecting("torch", imitated))


def onnx_code(folder: str, graph: str, hidden: int, imitated: int | None) -> str:
    """Return code that makes sentence vectors with ONNX Runtime.

    Args:
        folder: The lines that set ``folder``.
        graph: Path of the graph in the folder.
        hidden: Width of the encoder.
        imitated: See :func:`imitated_width`.
    """
    return _ONNX_CODE.format(folder=folder, graph=graph, hidden=hidden, **_projecting("numpy", imitated))


def _projecting(library: str, imitated: int | None) -> dict[str, str]:
    if imitated is None:
        return {"imports": "", "projected": ""}
    return {
        "imports": f"from safetensors.{library} import load_file\n",
        "projected": _PROJECTED.format(width=imitated),
    }
