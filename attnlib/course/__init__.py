"""What the notebooks need to show, check and export; nothing that teaches the maths."""
