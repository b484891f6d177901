from hypothesis import given
from hypothesis import strategies as st

from radiographs.read.numbered import in_absent_folders


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    present=st.sets(st.integers(0, 5)),
    gone=st.sets(st.integers(0, 23)),
)
def test_films_of_absent_folders_and_those_missing_from_a_folder_that_is_there(
    sizes: list[int], present: set[int], gone: set[int]
) -> None:
    """The films at a folder's ends are there, or the neighbouring folder is."""
    folder_of: dict[str, int] = {}
    for folder, size in enumerate(sizes):
        folder_of |= {f"{len(folder_of) + i:03d}": folder for i in range(size)}
    missing_folders = {folder for folder in range(len(sizes)) if folder not in present}
    ends = {
        name
        for name, folder in folder_of.items()
        for mate in (f"{int(name) - 1:03d}", f"{int(name) + 1:03d}")
        if folder_of.get(mate, folder) in missing_folders
    }
    single = {name for name in folder_of if int(name) in gone and name not in ends}
    held = {
        folder: [n for n, f in folder_of.items() if f == folder and n not in single]
        for folder in range(len(sizes))
        if folder in present
    }
    if not all(held.values()):
        return  # an empty folder is an absent one
    lost = set(folder_of) - {name for names in held.values() for name in names}
    expected = {name for name in lost if folder_of[name] in missing_folders}
    assert in_absent_folders(lost, held, 0, len(sizes) - 1) == expected


def test_without_folders_all_are_absent_and_in_a_flat_one_none_is_between() -> None:
    assert in_absent_folders(["a"], {}, 1, 12) == {"a"}
    assert in_absent_folders(["a", "c", "e"], {3: ["b", "d"]}, 1, 12) == {"a", "e"}
