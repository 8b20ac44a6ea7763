"""Alarms that look at a model: what would make its robust accuracy untrustworthy.

Every cause is a module with ``check(subject) -> list[Alarm]``; :func:`quick` and :func:`full` are the check-up.
"""

from __future__ import annotations
