"""Pictures, videos and audio: from bytes to placeholders and tower features."""
