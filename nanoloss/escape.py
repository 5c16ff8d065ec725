"""Names from the user's data in messages, Markdown and figures: they are shown as they are, and
never read as markup, as a line of their own or as commands to a terminal."""
import re

MAX_NAME = 100  # characters of a name that are shown
# characters that command a terminal, end a line, turn the direction of writing, or are half of one
CONTROLS = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')

# The punctuation that means something within a line of GitHub's Markdown. Ordinary names stay as
# they are: an underscore within a word and brackets without a link mean nothing.
MARKDOWN = re.compile(r'[\\`*|<~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(|&(?=#?\w+;)')


def one_line(text):
    """A text in one line, with \\n, \\x1b ... for its CONTROLS."""
    return CONTROLS.sub(lambda match: match[0].encode('unicode_escape').decode(), text)


def shortened(text):
    """At most MAX_NAME characters of a text, of one that is longer its beginning and its end."""
    if len(text) <= MAX_NAME:
        return text
    half = MAX_NAME // 2
    return f'{text[:half - 1]}…{text[-half:]}'


def markdown(text):
    """A text as Markdown that shows it as it is, in one line."""
    return MARKDOWN.sub(r'\\\g<0>', one_line(text))


def markdown_name(text):
    """The same of a name, of which a long one is cut."""
    return markdown(shortened(text))


def figure_name(text):
    """A name for a figure's text or legend, which leaves out what begins with an underscore."""
    text = one_line(shortened(text))
    return ' ' + text if text.startswith('_') else text
