"""The tokenizers of tiktoken, by name; the default, cl100k_base, needs no download.

tiktoken downloads its tables from a host that many machines cannot reach. The wheel of bpe-openai
contains the table of cl100k_base, so it is taken from there, and its checksum is checked.
"""
import base64
import gzip
import hashlib
import zlib
from importlib.util import find_spec
from pathlib import Path

import tiktoken

from nanoloss.settings import fail
from nanoloss.text import read_table, without_end_of_text

# the definition of cl100k_base in tiktoken_ext/openai_public.py; the checksum is that of the file
# that tiktoken would download
CL100K_SHA256 = '223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7'
CL100K_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
CL100K_SPECIAL_TOKENS = {
    '<|endoftext|>': 100257,
    '<|fim_prefix|>': 100258,
    '<|fim_middle|>': 100259,
    '<|fim_suffix|>': 100260,
    '<|endofprompt|>': 100276,
}


def table_file(ranks):
    """{token: rank} -> the table in tiktoken's file format, bytes."""
    lines = []
    for token in sorted(ranks, key=ranks.get):
        lines.append(b'%s %d\n' % (base64.b64encode(token), ranks[token]))
    return b''.join(lines)


def table_sha256(ranks):
    """{token: rank} -> the sha256 of the table's file."""
    return hashlib.sha256(table_file(ranks)).hexdigest()


def cl100k_from_wheel(package):
    """tiktoken's cl100k_base with the table in the folder of the installed bpe-openai."""
    # importing the package would also read two other tables, which takes a second
    try:
        table = gzip.decompress((package / 'data/cl100k_base.tiktoken.gz').read_bytes())
    except (OSError, EOFError, zlib.error):
        table = b''
    if hashlib.sha256(table).hexdigest() != CL100K_SHA256:
        fail('the installed bpe-openai has a different cl100k_base table; '
             'pip install bpe-openai==0.1.4')
    return tiktoken.Encoding('cl100k_base', pat_str=CL100K_PATTERN,
                             mergeable_ranks=read_table(table),
                             special_tokens=CL100K_SPECIAL_TOKENS)


def tokenizer(name='cl100k_base'):
    """The tiktoken.Encoding of that name. tiktoken downloads all but cl100k_base."""
    wheel = find_spec('bpe_openai')
    if name == 'cl100k_base' and wheel:
        return cl100k_from_wheel(Path(wheel.origin).parent)
    try:
        return tiktoken.get_encoding(name)
    except (ValueError, OSError) as error:
        known = ', '.join(tiktoken.list_encoding_names())
        fail(f'--tokenizer={name}: {error}; tiktoken has {known}')


def decode(tokens, encoding):
    """The text of these tokens, uint32 [n]; an end of text alone is an empty text."""
    return encoding.decode(without_end_of_text(tokens, encoding).tolist())
