"""Data in, picture out: nothing here computes, measures, or knows a widget."""
