"""How a recording becomes a world: windows of frames, losses, the trainer and distillation."""
