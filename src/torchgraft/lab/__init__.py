"""The lab: what a warm start is worth, measured by training; one record for an experiment, one command to run it.

Experiment → tasks → engine (this process, all cores, Ray) → store of rows → analysis → report
"""

from __future__ import annotations

__all__: list[str] = []
