"""A simulated archive with the formats, paths and oddities of the real ones, and a server for archive trees."""
