"""A folder a paper, a module a section, a function an equation. Papers do not import each other."""
