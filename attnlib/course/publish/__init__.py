"""From notebooks to what people get: stored outputs, decks, handouts, pictures."""
