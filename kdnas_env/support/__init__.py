"""General helpers, independent of distillation."""
