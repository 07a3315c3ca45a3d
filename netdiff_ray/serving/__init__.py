"""What the endpoint says over HTTP, and the page it shows; nothing here knows Ray."""
