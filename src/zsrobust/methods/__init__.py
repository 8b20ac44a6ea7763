"""Methods of adversarial adaptation by name.

A user's package adds its own through the entry-point group ``zsrobust.methods``: a class whose keyword arguments are
the method's options, fulfilling :class:`zsrobust.methods.base.Method`.
"""

from zsrobust.registry import Registry

METHODS = Registry("method", {"tecoa": "zsrobust.methods.tecoa:TeCoA"})
