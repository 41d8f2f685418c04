"""The product of a task: a classifier if the task has labels, else an embedding model."""

from __future__ import annotations

from kdnas_env.pipeline.distill.products.classifier import ClassifierProduct
from kdnas_env.pipeline.distill.products.embedder import EmbedderProduct
from kdnas_env.pipeline.distill.products.product import Product
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.tasks.specs import EMBEDDING


def product_of(task: TaskOptions) -> Product | None:
    """Return the product of a task; None without a task."""
    if task.name is None:
        return None
    return EmbedderProduct() if task.name == EMBEDDING else ClassifierProduct()
