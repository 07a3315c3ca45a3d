"""The only room that imports Ray: thin adapters around the functions of the other rooms."""
