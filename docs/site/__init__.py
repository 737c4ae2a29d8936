"""The site: the lessons and the documentation as static pages, by `python -m docs.site.build`."""
