"""Tool calls: the models' formats, grammars that enforce them, a streaming parser, tool_choice."""
