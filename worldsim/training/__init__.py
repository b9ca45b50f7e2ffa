"""Training of worlds from recordings: windows of frames, losses, the trainer and distillation."""
