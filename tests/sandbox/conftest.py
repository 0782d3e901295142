from __future__ import annotations

from tests.emulators.conftest import s3_url, start_s3

__all__ = ["s3_url", "start_s3"]
