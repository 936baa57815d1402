"""Other people's engines, on this one: each bridge is a module of its own, imported when it is first used."""
