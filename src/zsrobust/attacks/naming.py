"""How an attack with options is called: ``pgd:20:step_size=1/255:restarts=5``."""

from __future__ import annotations


def full_name(base: str, **options: object) -> str:
    """``base`` with every option that is not None; two attacks of one name are the same attack."""
    return ":".join([base, *(f"{name}={value}" for name, value in options.items() if value is not None)])
