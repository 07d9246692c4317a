"""Pictures, videos and audio: from bytes to placeholder tokens and tower features."""
