"""Data sets that are published in numbered folders, of which a hospital may have only some."""

from collections.abc import Collection, Iterable, Mapping


def in_absent_folders(
    names: Iterable[str], held: Mapping[int, Collection[str]], first: int, last: int
) -> set[str]:
    """Return the names that belong to folders that are not there.

    Sorted by name, the films of such a set fill one folder after the other. A missing film that
    lies between two films of one folder, or of two folders with consecutive numbers, is missing
    from a folder that is there; it is not returned.

    Args:
        names: Films, or patients, that are not there.
        held: What is there, by the number of its folder.
        first: Number of the set's first folder.
        last: Number of its last folder.
    """
    present = {number: of_folder for number, of_folder in sorted(held.items()) if of_folder}
    spans: list[tuple[str, str | None]] = []
    for number, of_folder in present.items():
        begins = "" if number == first else min(of_folder)
        ends = None if number == last else max(of_folder)
        if number - 1 in present:
            begins = spans.pop()[0]
        spans.append((begins, ends))
    return {
        name
        for name in names
        if not any(begins <= name and (ends is None or name <= ends) for begins, ends in spans)
    }
