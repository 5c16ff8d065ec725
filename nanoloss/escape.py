"""Escape names from the user's data in messages, Markdown and figures: they are shown literally,
never interpreted as markup, line breaks or terminal commands."""
import re

MAX_NAME = 100  # characters shown of a name
# control characters, line ends, changes of the writing direction, and lone surrogates
CONTROLS = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')

# The punctuation that is markup within a line of GitHub's Markdown. Ordinary names stay unchanged:
# an underscore within a word and brackets without a link are not markup.
MARKDOWN = re.compile(r'[\\`*|<~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(|&(?=#?\w+;)')


def one_line(text):
    """A text in one line, with its CONTROLS escaped as \\n, \\x1b ..."""
    return CONTROLS.sub(lambda match: match[0].encode('unicode_escape').decode(), text)


def shortened(text):
    """A text or, if it has more than MAX_NAME characters, its beginning and its end."""
    if len(text) <= MAX_NAME:
        return text
    half = MAX_NAME // 2
    return f'{text[:half - 1]}…{text[-half:]}'


def markdown(text):
    """A text as Markdown that shows it literally, in one line."""
    return MARKDOWN.sub(r'\\\g<0>', one_line(text))


def markdown_name(text):
    """A name as Markdown, shortened if it is long."""
    return markdown(shortened(text))


def figure_name(text):
    """A name for the text or legend of a figure. A space is put before an underscore, since
    Matplotlib leaves names that begin with one out of the legend."""
    text = one_line(shortened(text))
    return ' ' + text if text.startswith('_') else text
