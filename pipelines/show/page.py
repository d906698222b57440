"""The parts shared by HTML pages, which are self-contained and printable."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure as Picture


def embedded(picture: Picture) -> str:
    """Return an img element that contains the picture."""
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=130)
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{encoded}">'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of plain text."""
    cells = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>" for row in rows
    )
    return f"<div class=wide><table><tr>{cells}</tr>{body}</table></div>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; }}
h1 {{ margin-bottom: 0; }} h2 {{ margin: 2rem 0 .5rem; font-size: 1.1rem; }}
.note {{ border-left: 3px solid #d1701f; padding-left: .8rem; color: #57606a; }}
.legend, .floor {{ color: #57606a; }} .bad {{ color: #b3261e; font-weight: 600; }}
.good {{ color: #1a7f37; font-weight: 600; }}
.unclear {{ color: #8a5a00; font-weight: 600; }} img {{ max-width: 100%; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .87rem; width: 100%; }}
th, td {{ border-bottom: 1px solid #d0d7de; padding: .35rem .5rem; text-align: left;
  vertical-align: top; }}
@media print {{ body {{ margin: 0; max-width: none; font-size: 11px; }} h2 {{ break-after: avoid; }}
  tr, img {{ break-inside: avoid; }} }}
</style></head><body>
{body}
</body></html>
"""
