"""Draws the README's picture of a terminal session: `python3 docs/make-terminal-picture.py > docs/terminal.svg`.

The lines below are of a real run of `npm run demo`, shortened.
"""

from html import escape

GREEN, RED, CYAN, DIM, BOLD = "#7ee787", "#ff7b72", "#79c0ff", "#8b949e", "#ffffff"
PLAIN = "#c9d1d9"
LINES = [
    [(DIM, "$ "), (BOLD, "npm run demo")],
    [(CYAN, "2. Conversations, and what a model will learn from one (its answers stand out)")],
    [(DIM, "<|im_start|>user⏎")],
    [(DIM, "With which database program can I open Luthier's jobs?<|im_end|>⏎")],
    [(DIM, "<|im_start|>assistant⏎")],
    [(GREEN, "Luthier stores its jobs and every event in SQLite.<|im_end|>"), (DIM, "⏎")],
    [(PLAIN, "example 0: 43 of 137 tokens are learned")],
    [(CYAN, "3. Questions in words that no conversation has, before training")],
    [(RED, "✗ "), (BOLD, "If I wanted to work on Luthier's engine, which programming language would I write?")],
    [(PLAIN, "  To work on Luthier's engine, you would need to have a Python programming language. However, …")],
    [(CYAN, "4. Training")],
    [(PLAIN, "step 36/54 "), (GREEN, "█████████████████"), (DIM, "░░░░░░░░"), (PLAIN, " loss 0.0981  grad_norm 0.648  lr 1.96e-4  ETA 42 s")],
    [(PLAIN, "held-out loss 3.621 before, 0.064 after")],
    [(CYAN, "5. The same questions, with the adapter")],
    [(GREEN, "✓ "), (BOLD, "If I wanted to work on Luthier's engine, which programming language would I write?")],
    [(PLAIN, "  The engine of Luthier is written in Rust.")],
    [(CYAN, "6. Result")],
    [(PLAIN, "right answers without the adapter: 1 of 12, with the adapter: 11 of 12")],
]
WIDTH, LINE, TOP = 860, 19, 44

print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + LINE * len(LINES) + 10}" font-family="monospace" font-size="13">')
print('<title>A run of npm run demo: a mask in colour, training, and answers before and after</title>')
print('<rect width="100%" height="100%" rx="8" fill="#0d1117"/>')
for index, colour in enumerate(("#ff5f56", "#ffbd2e", "#27c93f")):
    print(f'<circle cx="{20 + 18 * index}" cy="18" r="6" fill="{colour}"/>')
for row, line in enumerate(LINES):
    spans = "".join(f'<tspan fill="{colour}">{escape(text)}</tspan>' for colour, text in line)
    print(f'<text x="16" y="{TOP + LINE * row}" xml:space="preserve">{spans}</text>')
print("</svg>")
