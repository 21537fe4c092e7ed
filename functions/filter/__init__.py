"""Accept an answer, or send the photo to review."""
