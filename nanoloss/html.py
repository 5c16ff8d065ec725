"""HTML and CSV of texts that may hold anything: they are shown literally, never interpreted as
markup or formulas."""
import csv
import io
import re
from html import escape

import numpy as np

from nanoloss.escape import shortened

MAX_CHARS = 2000  # of a text
SUMMARY_CHARS = 160  # of a longer text, before it is opened


def clean(text):
    """A text without the control characters that no page and no spreadsheet shows."""
    text = text.replace('\r\n', '\n')
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '\ufffd', text)


def cut(text):
    """At most MAX_CHARS characters of a text."""
    text = clean(text)
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + ' ...'


def paragraph(text):
    return f'<p>{escape(clean(text))}</p>'


def shown(name):
    """A name, such as a class's, as HTML."""
    return escape(clean(shortened(name)))


def quote(text):
    """A text of the data; a click opens a long one."""
    text = cut(text)
    # dir isolates the text: it cannot reverse the writing direction of what stands beside it
    whole = f'<blockquote dir="auto">{escape(text)}</blockquote>'
    if len(text) <= SUMMARY_CHARS:
        return whole
    beginning = escape(text[:SUMMARY_CHARS])
    return f'<details><summary dir="auto">{beginning} ...</summary>{whole}</details>'


def scrolling_table(caption, headings, rows):
    """rows: lists of cells, the first of which names its row; numbers come formatted."""
    caption = shown(caption)
    head = ''.join(f'<th scope="col" dir="auto">{shown(heading)}</th>' for heading in headings)
    lines = []
    for name, *cells in rows:
        data = ''.join(f'<td dir="auto">{escape(clean(cell))}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row" dir="auto">{shown(name)}</th>{data}</tr>\n')
    # a keyboard can scroll the element that has the focus
    return (f'<div class="wide" role="region" tabindex="0" aria-label="{caption}">\n'
            f'<table><caption>{caption}</caption>\n'
            f'<thead><tr>{head}</tr></thead>\n<tbody>{"".join(lines)}</tbody></table></div>\n')


def text_list(items):
    """items: pairs of a line and the texts below it."""
    lines = []
    for line, texts in items:
        quotes = ''.join(quote(text) for text in texts)
        lines.append(f'<li><p dir="auto">{escape(clean(line))}</p>{quotes}</li>\n')
    return f'<ol>\n{"".join(lines)}</ol>\n'


def csv_cell(value):
    """Numbers with six digits; a text so that no spreadsheet computes it."""
    if value is None:
        return ''
    if isinstance(value, (float, np.floating)):
        return f'{value:.6g}'
    if not isinstance(value, str):
        return str(value)
    text = cut(value)
    return "'" + text if text.startswith(('=', '+', '-', '@', '\t')) else text


def csv_bytes(columns, rows):
    """A table as the bytes of a CSV file."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow([csv_cell(name) for name in columns])
    for row in rows:
        writer.writerow([csv_cell(value) for value in row])
    return buffer.getvalue().encode()
