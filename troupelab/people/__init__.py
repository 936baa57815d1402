"""Who acts: personas, worlds, and the agents that play them."""
