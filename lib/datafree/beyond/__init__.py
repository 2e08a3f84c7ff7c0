"""Beyond the four papers: what joins their ideas. Papers do not know each other; this room knows them all."""
