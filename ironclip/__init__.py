"""ironclip."""
