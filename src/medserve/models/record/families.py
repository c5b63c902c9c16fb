"""Every family of record models, imported so that it registers itself."""

from medserve.models.record import additive, casenet, columns, image, linear, tagger, text, timeline, trees, waveform  # noqa: F401
