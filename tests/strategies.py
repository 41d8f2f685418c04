"""Hypothesis strategies for architectures, students and evaluations."""

from __future__ import annotations

from hypothesis import strategies as st

from kdnas_env.core.architecture import FAMILIES, PLAIN_TYPES, EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Latency, Status

ACTIVATIONS = ("gelu", "gelu_python", "relu", "silu", "swish", "gelu_new")


@st.composite
def teachers(draw: st.DrawFn) -> EncoderArchitecture:
    """Encoders of every type and of odd shapes: 1 to 30 layers, 1 to 24 heads of width 1 to 80."""
    family = draw(st.sampled_from(PLAIN_TYPES))
    heads = draw(st.integers(1, 24))
    hidden = heads * draw(st.integers(1, 80))
    return EncoderArchitecture(
        family=family,
        num_hidden_layers=draw(st.integers(1, 30)),
        num_attention_heads=heads,
        hidden_size=hidden,
        intermediate_size=draw(st.integers(1, 5000)),
        hidden_act=draw(st.sampled_from(ACTIVATIONS)),
        vocab_size=draw(st.integers(10, 250_000)),
        max_length=draw(st.integers(8, 600)),
        type_vocab_size=draw(st.integers(1, 2)),
        embedding_size=draw(st.integers(1, hidden)) if family in ("albert", "electra") else hidden,
        pad_token_id=draw(st.integers(0, 1)),
        layer_norm_eps=1e-12,
    )


def students() -> st.SearchStrategy[StudentConfig]:
    """Configurations, buildable or not."""
    return st.builds(
        StudentConfig,
        st.integers(1, 24),
        st.integers(1, 16),
        st.integers(1, 1024),
        st.integers(1, 4096),
        st.sampled_from(ACTIVATIONS),
        st.sampled_from(FAMILIES),
        st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), recipe_values, max_size=3).map(
            lambda changes: tuple(changes.items())
        ),
    )


recipe_values = (
    st.none()
    | st.booleans()
    | st.integers(1, 64)
    | st.floats(1e-6, 1, allow_nan=False)
    | st.sampled_from(["uniform+last", "hidden_states"])
)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-6, 1e6)
curves = st.lists(finite, max_size=5).map(tuple)


def fidelities() -> st.SearchStrategy[Fidelity]:
    return st.builds(
        Fidelity, st.integers(0, 50), st.floats(0, 1, exclude_min=True), st.integers(min_value=0, max_value=2**64)
    )


def latencies() -> st.SearchStrategy[Latency]:
    return st.builds(
        Latency, positive, positive, st.integers(1, 999), positive, positive, positive, positive, st.text(max_size=12)
    )


def evaluations() -> st.SearchStrategy[Evaluation]:
    return st.builds(
        Evaluation,
        students(),
        fidelities(),
        st.sampled_from(Status),
        train_loss=curves,
        heldout_loss=curves,
        train_unexplained=curves,
        heldout_unexplained=curves,
        task_divergence=st.none() | positive,
        task_unexplained=st.none() | positive,
        epoch_seconds=curves,
        wall_seconds=positive,
        latency=st.none() | latencies(),
        parameters=st.integers(0, 2**40),
        flops=st.integers(0, 2**60),
        peak_memory_bytes=st.integers(0, 2**50),
        device=st.text(max_size=10),
        error=st.text(max_size=50),
        details=st.dictionaries(st.text(max_size=5), st.none() | finite | st.text(max_size=5), max_size=3),
    )
