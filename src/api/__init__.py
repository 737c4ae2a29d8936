"""The HTTP routes: from the wire to the engine and back."""
