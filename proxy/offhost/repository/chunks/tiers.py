"""When things of many sizes are merged, so that they stay few and none is rewritten often.

Owns: that rule. Segments of the local index and runs of a repository both follow it.
"""

from collections.abc import Sequence


def like_sized(sizes: Sequence[int]) -> list[int]:
    """Positions of what to merge now: the smallest, and each next one that is not much larger than those together.

    What is merged so nearly doubles, so that it is rewritten about as often as the whole doubles, and about as many are
    left as that. Never one alone.
    """
    chosen: list[int] = []
    together = 0
    for at in sorted(range(len(sizes)), key=sizes.__getitem__):
        if chosen and sizes[at] > together + together // 4:  # sizes differ a little that are meant to be equal
            break
        chosen.append(at)
        together += sizes[at]
    return chosen if len(chosen) > 1 else []
