"""Model cards: their texts are Markdown templates beside these modules, which fill them."""
