"""`sluice demo`: every service as a process of its own, watched until the last record is counted and decided on."""

from __future__ import annotations

from sluice.console.demo.command import demo

__all__ = ["demo"]
