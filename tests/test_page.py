"""The page of evaluate.py: every figure against a count of its own, and what a hostile text can do."""
import csv
import importlib.util
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.stats import binomtest

import evaluate
from nanoloss.stats import confident_classes, interval

pytest.importorskip('datasketch')
from nanoloss import page  # noqa: E402
from tests.helpers import fails  # noqa: E402
