"""A learner behind HTTP: `create_app`, `Service`, and the command `everclip serve`."""

from __future__ import annotations

from everclip.serve.app import create_app
from everclip.serve.limits import Limits
from everclip.serve.service import Service

__all__ = ["Limits", "Service", "create_app"]
