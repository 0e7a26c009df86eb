"""A sentence as a picture, each word on a ground as dark as the model was surprised by it.

    python docs/_ext/strip.py > docs/_static/strip.svg

README and the site's front page show it; a test holds it to what the bundled model says.
"""

import html

import numpy as np

import gluonlm
from gluonlm.inference.scoring import surprise
from gluonlm.text.detokenize import tokens_of

SENTENCE = (
    "it is a truth universally acknowledged , that a single reader in possession of a good "
    "book must be in want of another ."
)
MOST_BITS = 18
LETTER, GAP, LINE, WIDTH = 9.6, 18, 58, 860  # pixels


def surprises() -> list[tuple[str, float]]:
    """The words of the sentence and how surprising each was to the bundled model, in bits."""
    model = gluonlm.load("austen")
    words = tokens_of(SENTENCE, model.dictionary, model.level)
    ids = model.dictionary.encode(words)
    nats = surprise(model, ids, model.dictionary.start_id)
    return [(word, float(loss / np.log(2))) for word, loss in zip(SENTENCE.split(), nats)]


def draw(words: list[tuple[str, float]]) -> str:
    """The picture as SVG: words from left to right, with their bits below."""
    x, y, parts = 8.0, 8, []
    for word, bits in words:
        width = LETTER * max(len(word), 3) + GAP / 2
        if x + width > WIDTH:
            x, y = 8.0, y + LINE
        share = 0.85 * min(bits / MOST_BITS, 1)
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="46" rx="6" '
            f'fill="#cd5418" fill-opacity="{share:.2f}"/>'
            f'<text x="{x + width / 2:.0f}" y="{y + 21}" font-size="17">{html.escape(word)}</text>'
            f'<text x="{x + width / 2:.0f}" y="{y + 38}" font-size="11" opacity="0.7">'
            f"{bits:.1f}</text>"
        )
        x += width + 6
    height = y + LINE
    told = f"A sentence, each word with its surprise in bits: {SENTENCE}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 10} {height}" role="img" '
        f'aria-label="{html.escape(told)}" font-family="monospace" text-anchor="middle" '
        f'fill="#222">\n<rect width="100%" height="100%" rx="8" fill="#fdfdfb"/>\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


if __name__ == "__main__":
    print(draw(surprises()))
