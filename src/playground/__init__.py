"""The playground: a page for browsers, in static files. README.md explains how to change it."""
