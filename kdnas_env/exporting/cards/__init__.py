"""Model cards: Markdown templates in this folder, and the modules that fill them in."""
