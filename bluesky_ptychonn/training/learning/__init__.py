"""Training of the networks that turn lifted patterns into phase patches."""
