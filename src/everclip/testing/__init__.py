"""The contracts as tests, for packages that bring a method, a selector or a stream of their own.

    from everclip.testing import check_method

    def test_my_method():
        check_method(MyMethod)

The checks need neither EverCLIP's source tree nor pytest, weights or data: they make a tiny CLIP and a few small
images, and take seconds. They are what EverCLIP's own methods, selectors and streams must pass.
"""

from __future__ import annotations

from everclip.testing.laws import LawBroken
from everclip.testing.methods import check_method
from everclip.testing.selectors import check_selector
from everclip.testing.streams import check_stream

__all__ = ["LawBroken", "check_method", "check_selector", "check_stream"]
