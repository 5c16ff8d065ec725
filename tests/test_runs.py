"""nanoloss/runs.py: what is read of a run of any version, and what is not executed."""
import pytest

from nanoloss.runs import name_code

CONFIG = {'head': 'bce', 'trunk': 'windows', 'n_embd': 16}


def test_classes_of_model_py_need_no_file():
    for code in '', 'mine.py':
        assert name_code(CONFIG, code) == CONFIG


def test_a_class_comes_from_the_file_that_is_named():
    """In whatever folder that is now."""
    config = {**CONFIG, 'head': 'old/mine.py:Mine', 'trunk': 'theirs.py:Trunk'}
    expected = {**CONFIG, 'head': 'new/mine.py:Mine', 'trunk': '/x/theirs.py:Trunk'}
    assert name_code(config, 'new/mine.py,/x/theirs.py') == expected


@pytest.mark.parametrize('kind', ['head', 'trunk'])
@pytest.mark.parametrize('code', ['', 'other.py', 'mine.py/other.py', 'old'])
def test_no_other_file_is_taken(kind, code):
    with pytest.raises(ValueError, match=f'its {kind} is Mine of old/mine.py.*--code=old/mine.py'):
        name_code({**CONFIG, kind: 'old/mine.py:Mine'}, code)
