"""Tool calls: how a model writes them, grammars that hold them to it, a parser, the choice."""
