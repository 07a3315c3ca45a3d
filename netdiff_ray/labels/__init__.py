"""What is known of a label from its training flows, and plans of new flows drawn from it."""
