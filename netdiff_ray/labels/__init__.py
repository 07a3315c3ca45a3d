"""Statistics of a label's training flows, and plans of new flows drawn from them."""
