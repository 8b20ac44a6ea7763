"""Methods of adversarial adaptation by name.

A user's package adds its own through the entry-point group ``zsrobust.methods``: a class whose keyword arguments are
the method's options, inheriting from :class:`zsrobust.methods.base.Method`.
"""

from zsrobust.registry import Registry

METHODS = Registry(
    "method",
    {
        "agft": "zsrobust.methods.agft:AGFT",
        "clean": "zsrobust.methods.clean:Clean",
        "coadv": "zsrobust.methods.coadv:CoAdv",
        "dual": "zsrobust.methods.dual:Dual",
        "fare": "zsrobust.methods.fare:FARE",
        "imgcoadv": "zsrobust.methods.imgcoadv:ImgCoAdv",
        "mart": "zsrobust.methods.mart:MART",
        "pmg-aft": "zsrobust.methods.pmg_aft:PMGAFT",
        "sim-clip": "zsrobust.methods.sim_clip:SimCLIP",
        "standard": "zsrobust.methods.standard:Standard",
        "tecoa": "zsrobust.methods.tecoa:TeCoA",
        "tga-zsr": "zsrobust.methods.tga_zsr:TGAZSR",
        "trades": "zsrobust.methods.trades:TRADES",
    },
)
