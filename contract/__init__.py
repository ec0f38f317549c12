"""What Adam's processes agree on, on disk: no torch, no policy, light enough for everyone to import."""
