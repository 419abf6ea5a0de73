"""What the codes of MRBrainS label files mean, in as many classes as are asked for."""

from __future__ import annotations

from pathlib import Path

from segkit import Label
from segkit.errors import UnknownName

NAMES = (
    "background",
    "cortical GM",
    "basal ganglia",
    "WM",
    "WM lesions",
    "extracerebral CSF",
    "ventricles",
    "cerebellum",
    "brain stem",
    "infarction",
    "other",
)
"""By code, as the challenge of 2018 lists them; that of 2013 ends with the brain stem."""

Scheme = tuple[tuple[Label, ...], tuple[int, ...]]
"""Classes, and ignored codes."""

MERGED = (
    Label(code=0, name="background"),
    Label(code=5, name="CSF", merged=(6,)),
    Label(code=1, name="GM", merged=(2,)),
    Label(code=3, name="WM", merged=(4,)),
)
"""Lesions count as WM and ventricles as CSF, as in the evaluation of 2013."""


def read_labels(root: Path, *, images: str, labels: int) -> Scheme:
    """Classes and ignored codes of MRBrainS 2018.

    Raises:
        UnknownName: there are no such classes.
    """
    return _scheme(labels, highest=10, choices=(4, 8, 10))


def read_labels_2013(root: Path, *, labels: int) -> Scheme:
    """Classes and ignored codes of MRBrainS 2013.

    Raises:
        UnknownName: there are no such classes.
    """
    return _scheme(labels, highest=8, choices=(4, 8))


def _scheme(labels: int, *, highest: int, choices: tuple[int, ...]) -> Scheme:
    """Classes and ignored codes of files with the codes 0 to `highest`."""
    if labels not in choices:
        raise UnknownName("number of labels of MRBrainS", str(labels), map(str, choices))
    if labels == 4:
        return MERGED, tuple(range(7, highest + 1))
    kept = tuple(Label(code=code, name=NAMES[code]) for code in range(labels + 1))
    return kept, tuple(range(labels + 1, highest + 1))
