"""A run, a group of runs or an exported folder as a function from texts to answers."""
from importlib.util import find_spec
from pathlib import Path

from nanoloss import is_out_of_memory
from nanoloss.files import mend_folder
from nanoloss.labels import BaseClassifier
from nanoloss.runs import WEIGHTS


class TextClassifier(BaseClassifier):
    """A finished run, the mean of a group of runs, or an exported folder as a function from texts
    to probabilities, labels and attributions. PyTorch is imported only for runs.

    which, code: for runs, see `Ensemble`.
    min_confidence: see `Labels`.
    thresholds: whether to use the thresholds chosen on val, if any.
    threads: CPU threads (0: a number that suits the machine).
    Raises ValueError if the folder is none of these, or is damaged, or if a package is missing.
    """

    def __init__(self, folder, which='last', min_confidence=0.0, thresholds=True, code='',
                 threads=0):
        folder = Path(folder)
        if which not in WEIGHTS:
            raise ValueError(f"which is 'last' or 'best', not {which!r}")
        if not folder.exists():
            mend_folder(folder)  # tools.export may have been killed while it replaced the folder
        if (folder / 'model.onnx').exists():
            if find_spec('onnxruntime') is None:
                raise ValueError('onnxruntime is missing; pip install -r requirements-serve.txt')
            from nanoloss.reader import ExportedModel
            model = ExportedModel(folder, thresholds, threads)
        else:
            try:
                from nanoloss.ensemble import Ensemble
            except ImportError as error:
                if is_out_of_memory(error):
                    raise
                raise ValueError(f'{folder} is no exported model, and a run needs the packages in '
                                 f'requirements.txt ({error})') from None
            model = Ensemble(folder, which, thresholds, code, threads)
        super().__init__(model, min_confidence)
