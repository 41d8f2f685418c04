"""kdnas: knowledge-distillation neural-architecture search as a Gymnasium environment."""
