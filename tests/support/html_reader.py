"""A page as who runs no script reads it."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """The text of a page as who runs no script reads it, its data, and every address that it names."""

    def __init__(self):
        super().__init__()
        self.text, self.data, self.addresses, self._inside = "", "", [], []

    def handle_starttag(self, tag, attributes):
        self._inside.append((tag, dict(attributes)))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag in ("meta", "img", "input", "link", "br"):
            self._inside.pop()

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, attributes = self._inside[-1] if self._inside else ("", {})
        if tag == "script":
            self.data += data if attributes.get("id") == "charts" else ""
        elif tag != "style":
            self.text += data
