"""Real flows and drawn ones, of the labels that lack some, in an encoded dataset."""
