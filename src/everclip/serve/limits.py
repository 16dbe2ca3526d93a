"""What the service spends on a request, and on all of them together."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

BYTES_PER_PIXEL = 32
"""What decoding takes at most. Measured on 49 megapixels: 8 (RGB PNG) to 28 (32-bit gray TIFF, transparent WebP)."""


class Limits(BaseModel):
    """What requests may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(256, ge=1, description="images in one request for answers")
    request_bytes: int = Field(64_000_000, ge=1, description="bytes of a request for answers")
    held_bytes: int = Field(512_000_000, ge=1, description="bytes of all requests for answers that are under way")
    pixels: int = Field(50_000_000, ge=1, description="pixels of one image")
    labels: int = Field(1000, ge=1, description="labels in one request")
    waiting: int = Field(2048, ge=1, description="images that may wait for an answer")
    decoders: int = Field(2, ge=1, description="threads that decode images; one more decodes the large ones")
    seconds: float = Field(60.0, gt=0, description="seconds until an answer, decoding included")
    stalled: float = Field(30.0, gt=0, description="seconds without news of a request until it is dropped")
    lesson_images: int = Field(50_000, ge=1, description="images of one lesson")
    lesson_bytes: int = Field(4_000_000_000, ge=1, description="bytes of one lesson")
    lessons: int = Field(16, ge=1, description="lessons that may wait")

    def memory(self, side: int) -> int:
        """Bytes that requests for answers take at most, all together, beside the model, what it learned and its work.

        Bodies are held twice while they are put together; then come the images being decoded and the views that wait.

        Args:
            side: S, pixels of a view's side.
        """
        decoding = BYTES_PER_PIXEL * (self.pixels + self.decoders * min(self.pixels, LARGE))
        return 2 * self.held_bytes + decoding + 3 * side * side * self.waiting


LARGE = 8_000_000
"""Pixels from which an image is large: only one such image is decoded at a time."""
