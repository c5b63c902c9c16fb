"""Every family of record models, imported so that it registers itself."""

from medserve.models.record import additive, casenet, columns, image, linear, text, timeline, trees, waveform  # noqa: F401
