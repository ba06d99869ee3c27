"""One self-contained HTML page: text, tables, pictures and drawings inside it, nothing fetched, no script run."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..imaging.atomic import write_text

# The page may show what it holds and reach nothing else, whatever an id or a path in it may say.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #5b6570; --paper: #ffffff; --rule: #d5dae0; --mark: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --dim: #9aa4ae; --paper: #14171a; --rule: #333a41; --mark: #1d2227; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--rule); }
h3 { margin: 1.5rem 0 .25rem; } p { max-width: 48rem; } .dim { color: var(--dim); }
table { border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { color: var(--dim); font-weight: 600; }
figure { margin: .75rem 0; } figcaption { color: var(--dim); max-width: 48rem; }
img, svg { max-width: 100%; height: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
pre { background: var(--mark); padding: 1rem; overflow-x: auto; font-size: 12px; }
"""


def text(value: object) -> str:
    """Anything as text that HTML cannot mistake for markup."""
    return html.escape(str(value))


def paragraph(value: str, *, dim: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p{' class=dim' if dim else ''}>{text(value)}</p>"


def heading(value: str, level: int = 2) -> str:
    """A heading of plain text."""
    return f"<h{level}>{text(value)}</h{level}>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; None is an empty cell."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{'' if cell is None else text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figure(content: str, caption: str) -> str:
    """A drawing or picture with what it shows."""
    return f"<figure>{content}<figcaption>{text(caption)}</figcaption></figure>"


def side_by_side(*parts: str) -> str:
    """Parts in a row, below each other where the window is narrow."""
    return f"<div class=row>{''.join(parts)}</div>"


def picture(image: np.ndarray, description: str) -> str:
    """An image inside the page.

    Args:
        image: uint8, [row, column, 3].
        description: For those who cannot see it.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = image.shape[:2]
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{text(description)}">'


def write_page(path: Path, title: str, parts: Sequence[str], document: Mapping[str, Any]) -> None:
    """Writes the page, whole or not at all, with the result behind it as JSON at its end.

    Args:
        path: The HTML file.
        title: Heading and title of the window.
        parts: Pieces of HTML.
        document: The result; a program finds it in the element `result`.

    Raises:
        ValueError: The result holds NaN or infinity.
        OSError: The file cannot be written.
    """
    shown = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    # Inside a script element only this sequence could end it.
    embedded = json.dumps(document, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    page = (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body>"
        f"<h1>{text(title)}</h1>{''.join(parts)}"
        f"{heading('The result as JSON')}<details><summary>Show</summary><pre>{text(shown)}</pre></details>"
        f'<script type="application/json" id="result">{embedded}</script></body></html>\n'
    )
    write_text(path, page)
