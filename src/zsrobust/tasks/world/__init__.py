"""The rendered micro-world: a CLIP-sized question in 64x64 pixels, drawn from a seed, without files or downloads.

``scene`` says what is in a picture, ``render`` draws it, ``captions`` words it, ``views`` turns it into labelled tasks.
Everything here is numpy only.
"""
