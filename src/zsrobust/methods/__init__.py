"""Methods of adversarial adaptation by name.

A user's package adds its own through the entry-point group ``zsrobust.methods``: a class whose keyword arguments are
the method's options, inheriting from :class:`zsrobust.methods.base.Method`.
"""

from zsrobust.registry import Registry

METHODS = Registry(
    "method",
    {
        "clean": "zsrobust.methods.clean:Clean",
        "coadv": "zsrobust.methods.coadv:CoAdv",
        "imgcoadv": "zsrobust.methods.imgcoadv:ImgCoAdv",
        "standard": "zsrobust.methods.standard:Standard",
        "tecoa": "zsrobust.methods.tecoa:TeCoA",
    },
)
