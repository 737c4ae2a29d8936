"""Recipe that trains the bundled model `storyteller` on text that it makes itself."""
