"""What stands on an HTML page."""

from html.parser import HTMLParser


class _Rows(HTMLParser):
    """Collects the cells of each row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data.strip().replace("\N{NO-BREAK SPACE}", " ")


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells of each row of all tables, by the row's first one."""
    return {row[0]: row[1:] for row in _Rows(text).rows}
