"""Where exported files come from: signed sidecars, C2PA manifests and an invisible mark."""
