"""Tasks: what is classified, with which names, at which size.

``task`` opens one, ``names`` lists the known ones, ``find`` reads a description without opening the data.
"""

from zsrobust.tasks.base import Task
from zsrobust.tasks.loader import find, names, task

__all__ = ["Task", "find", "names", "task"]
