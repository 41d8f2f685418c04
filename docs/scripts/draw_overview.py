"""Draw the overview of a search, ``docs/pictures/overview.svg``.

python docs/scripts/draw_overview.py
"""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).parents[1] / "pictures" / "overview.svg"

BOXES = [  # x, y, width, height, colour, title, lines below it
    (20, 110, 190, 80, "#e8eaf6", "Agent", ["LSTM controller, Optuna,", "PPO, evolution, yours"]),
    (300, 20, 300, 260, "#f5f5f5", "Gymnasium environment", []),
    (320, 60, 260, 56, "#e0f2f1", "Latency", ["student beside teacher; limits checked"]),
    (320, 130, 260, 56, "#e0f2f1", "Mini-KD", ["seconds of distillation per student"]),
    (320, 200, 260, 60, "#e0f2f1", "Reward", ["imitation against latency"]),
    (690, 30, 190, 70, "#fff3e0", "Teacher and text", ["any BERT-like encoder,", "any sentences"]),
    (
        690,
        190,
        190,
        90,
        "#fff3e0",
        "Best student",
        ["distilled longer,", "trained on a task,", "exported to ONNX"],
    ),
]

ARROWS = [  # from, to, label, where the label is
    ((210, 130), (300, 130), "student", (255, 122)),
    ((300, 172), (210, 172), "reward", (255, 190)),
    ((690, 65), (600, 65), "", (0, 0)),
    ((600, 235), (690, 235), "", (0, 0)),
]


def overview() -> str:
    """Return the picture as SVG."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 300" font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L9,4 L0,8 z" fill="#3949ab"/></marker></defs>',
        '<rect width="900" height="300" fill="white"/>',
    ]
    for x, y, width, height, colour, title, lines in BOXES:
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}" stroke="#9e9e9e"/>'
        )
        middle = x + width / 2
        parts.append(f'<text x="{middle}" y="{y + 24}" text-anchor="middle" font-weight="bold">{title}</text>')
        for number, line in enumerate(lines):
            parts.append(f'<text x="{middle}" y="{y + 43 + 17 * number}" text-anchor="middle">{line}</text>')
    for (x1, y1), (x2, y2), label, (x, y) in ARROWS:
        parts.append(f'<path d="M{x1},{y1} L{x2},{y2}" stroke="#3949ab" stroke-width="2" marker-end="url(#tip)"/>')
        if label:
            parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" fill="#3949ab">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(overview(), encoding="utf-8")
