"""Studies: a grid of adaptations and evaluations from one recipe, computed once, resumed, and drawn.

``recipe`` reads, ``grid`` spells out the cells, ``plan`` finds the jobs behind them, ``workers`` do these, ``runner``
is the whole; ``results`` and what follows read the records.
"""
